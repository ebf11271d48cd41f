"""`sark-cache demo`: measures a hit, a miss and a revocation."""
