"""OCI image layouts: images in a directory, or in a tar file to read."""
