"""Speed against peers, and figures of merit, run through ``dualsmooth bench``."""
