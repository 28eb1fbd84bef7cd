"""What the command line does, a file for each command. It prints with rich; nbloss itself never."""
