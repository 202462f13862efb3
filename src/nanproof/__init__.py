"""nanproof: Core ML ML Programs that run in FP16 without NaN, Inf or silent damage, checked on any machine."""
