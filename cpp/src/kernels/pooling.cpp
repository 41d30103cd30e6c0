// Vector kernels.
