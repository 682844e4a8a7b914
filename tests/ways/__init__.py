"""Every way of generating, examined one by one."""
