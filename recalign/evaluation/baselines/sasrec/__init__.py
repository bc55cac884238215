"""SASRec (Kang & McAuley, ICDM 2018): its network, its training and the ranker they give."""
