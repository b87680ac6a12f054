"""One file a platform. Vendor SDKs are imported only inside their functions."""
