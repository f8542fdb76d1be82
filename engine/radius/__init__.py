"""L2 radii from bounds on probabilities.

Arguments outside their range, and NaN, raise `ArgumentError`.
"""

from dualsmooth.engine.radius.gaussian import gaussian_radius, interval_radius, margin_radius
from dualsmooth.engine.radius.two_scale import semielastic_radius, two_scale_lower_bound

__all__ = [
    "gaussian_radius",
    "interval_radius",
    "margin_radius",
    "semielastic_radius",
    "two_scale_lower_bound",
]
