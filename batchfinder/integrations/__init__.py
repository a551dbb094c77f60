"""One flat file per framework; nothing in the core imports any of them."""
