"""Where images and labels come from: catalog, decoding, the decode-once store, splits."""
