"""`recalign serve`: a local web page on which a trained run recommends."""
