"""Nsight Systems: its command line and its reports; and what torch.profiler tells, in the same columns."""
