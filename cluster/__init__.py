"""Files that start clusters elsewhere; the search itself knows nothing of them."""
