"""The command `stockledger`."""
