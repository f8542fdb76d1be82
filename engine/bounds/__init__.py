"""Lower and upper bounds on probabilities from votes.

Arguments outside their range, NaN and floats for integers raise `ArgumentError`.
"""

from dualsmooth.engine.bounds.anytime import anytime_lower
from dualsmooth.engine.bounds.binomial import clopper_pearson_lower
from dualsmooth.engine.bounds.order_statistics import order_statistic_lower, order_statistic_upper
from dualsmooth.engine.bounds.proportions import (
    clopper_pearson_table,
    clopper_pearson_upper,
    majority_p_value,
)
from dualsmooth.engine.bounds.sequential import group_sequential_plan

__all__ = [
    "anytime_lower",
    "clopper_pearson_lower",
    "clopper_pearson_table",
    "clopper_pearson_upper",
    "group_sequential_plan",
    "majority_p_value",
    "order_statistic_lower",
    "order_statistic_upper",
]
