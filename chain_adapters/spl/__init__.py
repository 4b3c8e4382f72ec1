"""Solana: the units of an instrument as a Token-2022 mint, set up as xStocks' mints are.

Everything here but `rpc` is pure: bytes in, bytes out. `solders` brings keys, messages and transactions; it is written in Rust, so
nothing outside this folder imports it (`pip install 'stockledger[spl]'`).
"""
