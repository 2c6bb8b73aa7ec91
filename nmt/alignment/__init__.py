"""Which source word a target word comes from: links, their error rate, and pictures of attention."""
