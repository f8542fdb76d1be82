"""What a run logged before it stopped, checked before it goes on."""

from typing import Any

from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.methods.options import Recorded
from dualsmooth.engine.runs.log import LOG, RunLog
from dualsmooth.engine.runs.rederive import Plan, budget_of, differences, rederive, stamp_of
from dualsmooth.engine.runtime.session import bundle_of


def check_logged(
    log: RunLog, method: Method, data: ImageSet, configuration: dict[str, Any], ids: list[int]
) -> None:
    """Derive every logged certificate again, in the order of the run; a memory learns them so.

    A `FileError` if a line is about an image that is not part of the run, or its votes give another
    certificate in this run.
    """
    outside = sorted(set(log.done) - set(ids))
    if outside:
        rule = "must hold images of the run only"
        raise FileError(log.folder / LOG, rule, f"image {outside[0]}", "use --fresh")
    bundle = bundle_of(method)
    again = Recorded.at(method, data.images)
    budget, stamp = budget_of(configuration), stamp_of(configuration, bundle)
    plan = Plan(bundle, again, budget, configuration["alpha"], stamp)
    for image_id in (i for i in ids if i in log.done):
        certificate, label = log.done[image_id], int(data.labels[image_id])
        try:
            changed = differences(certificate, rederive(plan, certificate), 0.0)
            if changed or certificate.label != (label if label >= 0 else None):
                raise ValueError(f"another {', '.join(changed) or 'label'}")
        except ValueError as error:
            rule = f"must be the log of this run, image {image_id}"
            raise FileError(log.folder / LOG, rule, error, "use --fresh") from error
        method.settle(certificate)
    method.check_settled()
