"""What stands beside the network, judged by the same code: a model a file."""
