"""Nsight Systems: its command line and its reports."""
