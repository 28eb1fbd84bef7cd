"""From definitions to kernels, and how they are run; arrays come in through a backend."""
