"""The chains: what the ledger decided is carried out there, and what is final there is reported back."""
