"""Calls with tensors: autograd, operators for compilers, transforms, torch's own functions."""
