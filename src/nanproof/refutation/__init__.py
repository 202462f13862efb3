"""Search for inputs that make Inf or NaN, where a proof has found nothing that excludes them."""
