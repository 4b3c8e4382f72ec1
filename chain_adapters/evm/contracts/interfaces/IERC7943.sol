// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";

/// @title The part of ERC-7943 for fungible tokens of regulated assets; its ERC-165 id is 0x3edbb4c4.
/// @notice Who may send and receive, what is frozen, and the transfer that a court can order.
interface IERC7943 is IERC165 {
    /// @notice Units were taken from one account and given to another by an enforcer.
    /// @param from Who lost them.
    /// @param to Who received them.
    /// @param amount How many units.
    event ForcedTransfer(address indexed from, address indexed to, uint256 amount);

    /// @notice The frozen units of an account were set.
    /// @param account Whose units.
    /// @param amount How many are frozen from now on; may exceed what the account has.
    event Frozen(address indexed account, uint256 amount);

    /// @notice The account may not send: it is on the issuer's deny list.
    /// @param account Which one.
    error ERC7943CannotSend(address account);

    /// @notice The account may not receive: it is on the issuer's deny list.
    /// @param account Which one.
    error ERC7943CannotReceive(address account);

    /// @notice The units are there, but frozen.
    /// @param account Whose units.
    /// @param amount How many were to move.
    /// @param unfrozen How many are not frozen.
    error ERC7943InsufficientUnfrozenBalance(address account, uint256 amount, uint256 unfrozen);

    /// @notice Take units from an account, past freezes and pauses of transfers.
    /// @param from Who loses them.
    /// @param to Who receives them; must be allowed to.
    /// @param amount How many units.
    /// @return result Always true; a refusal reverts.
    function forcedTransfer(address from, address to, uint256 amount) external returns (bool result);

    /// @notice Set how many units of an account are frozen.
    /// @param account Whose units.
    /// @param amount How many from now on, not how many more; may exceed what the account has.
    /// @return result Always true; a refusal reverts.
    function setFrozenTokens(address account, uint256 amount) external returns (bool result);

    /// @notice Tell whether an account may send at all.
    /// @param account Which one.
    /// @return allowed True if it may.
    function canSend(address account) external view returns (bool allowed);

    /// @notice Tell whether an account may receive at all.
    /// @param account Which one.
    /// @return allowed True if it may.
    function canReceive(address account) external view returns (bool allowed);

    /// @notice Tell how many units of an account are frozen.
    /// @param account Whose units.
    /// @return amount How many; may exceed what the account has.
    function getFrozenTokens(address account) external view returns (uint256 amount);

    /// @notice Tell whether this transfer would be allowed now, allowances aside.
    /// @param from Who would send.
    /// @param to Who would receive.
    /// @param amount How many units.
    /// @return allowed True if it would.
    function canTransfer(address from, address to, uint256 amount) external view returns (bool allowed);
}
