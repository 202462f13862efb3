"""Where Inf and NaN are born."""
