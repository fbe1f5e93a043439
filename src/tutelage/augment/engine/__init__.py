"""The three backends that carry a plan out, and their kernels."""
