"""CUDA C++ kernels for what Triton cannot express; CuPy compiles them at first use."""
