import os

# Samplers run one thread per batch; torch's own thread team only slows small test tensors down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import settings

if not torch.cuda.is_available():
    # Triton decides when it is first imported whether its functions are compiled or interpreted,
    # and some library may import it before any kernel test does.
    os.environ["TRITON_INTERPRET"] = "1"
torch.set_num_threads(1)

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
