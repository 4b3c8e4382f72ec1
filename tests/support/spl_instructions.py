"""One of each instruction, on keys that are 32 times 1, 2, 3..., for comparing bytes."""

from __future__ import annotations

from solders.instruction import Instruction
from solders.pubkey import Pubkey

from chain_adapters.spl import programs, token_2022
from chain_adapters.spl.multiplier import SCALE, encode_multiplier
from chain_adapters.spl.token_2022 import AccountState, AuthorityKind

KEYS = [Pubkey(bytes([number]) * 32) for number in range(1, 6)]


def known_instructions() -> dict[str, Instruction]:
    mint, account, other, authority, payer = KEYS
    sums = {"units": 123_456_789, "decimals": 8}
    return {
        "metadataPointer": token_2022.initialize_metadata_pointer(mint, authority, mint),
        "permanentDelegate": token_2022.initialize_permanent_delegate(mint, authority),
        "defaultAccountState": token_2022.initialize_default_account_state(mint, AccountState.INITIALIZED),
        "scaledUiAmount": token_2022.initialize_scaled_ui_amount(mint, authority, encode_multiplier(15 * SCALE // 10)),
        "pausable": token_2022.initialize_pausable(mint, authority),
        "transferHook": token_2022.initialize_transfer_hook(mint, authority, None),
        "mint": token_2022.initialize_mint(mint, 8, authority, authority),
        "mintTo": token_2022.mint_to(mint, account, authority, **sums),
        "burn": token_2022.burn(mint, account, authority, **sums),
        "transfer": token_2022.transfer(mint, account, other, authority, **sums),
        "freeze": token_2022.freeze(mint, account, authority),
        "thaw": token_2022.thaw(mint, account, authority),
        "pause": token_2022.pause(mint, authority),
        "resume": token_2022.resume(mint, authority),
        "updateMultiplier": token_2022.update_multiplier(mint, authority, encode_multiplier(25 * SCALE // 10), 1_800_000_000),
        "updateDefaultAccountState": token_2022.update_default_account_state(mint, authority, AccountState.FROZEN),
        "updateTransferHook": token_2022.update_transfer_hook(mint, authority, other),
        "setAuthority": token_2022.set_authority(mint, AuthorityKind.PERMANENT_DELEGATE, authority, other),
        "giveUpAuthority": token_2022.set_authority(mint, AuthorityKind.MINT, authority, None),
        "closeAccount": token_2022.close_account(account, payer, authority),
        "amountToUiAmount": token_2022.amount_to_ui_amount(mint, 123_456_789),
        "associatedAccount": programs.create_associated_account(payer, other, mint),
    }
