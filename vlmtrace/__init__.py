"""vlmtrace: where a vision-language model spends its time, measured inside one real ``generate()``."""
