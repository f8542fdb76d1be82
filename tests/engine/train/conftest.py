"""These networks are tiny: on a busy machine a second thread only waits for the first."""

import torch

torch.set_num_threads(1)
