"""A run as a Parquet file, for tools that read columns (extra ``parquet``)."""

from pathlib import Path

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.files import check_target, unwritable, whole_file
from dualsmooth.engine.machine import install_command
from dualsmooth.engine.runs.rederive import read_derived

COLUMNS = (
    *("image_id", "label", "predicted", "radius", "sigma", "correct", "abstained_at"),
    *("method", "draws", "seed", "seconds"),
)


def write_parquet(run: Path, file: Path) -> int:
    """Write the certificates of a run in the order of image ids; returns how many.

    Columns are those of the certificate, and ``certificate``, its whole line of the log. Radii are
    the float64 of the certificate, which are rounded down.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        rule, hint = "needs pyarrow, which is not installed", install_command("parquet")
        raise ArgumentError("parquet", rule, file, hint) from None
    check_target(file)
    certificates = sorted(read_derived(run)[1], key=lambda certificate: certificate.image_id)
    columns = {name: [getattr(c, name) for c in certificates] for name in COLUMNS}
    columns["certificate"] = [c.to_json() for c in certificates]
    types = dict.fromkeys(("image_id", "label", "predicted", "draws"), pa.int64())
    types |= dict.fromkeys(("radius", "sigma", "seconds"), pa.float64())
    types |= {"correct": pa.bool_(), "seed": pa.uint64()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    try:
        with whole_file(file) as draft:
            parquet.write_table(pa.table(columns, schema), draft)
    except OSError as error:
        raise unwritable(file, error) from error
    return len(certificates)
