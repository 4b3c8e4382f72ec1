// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControlDefaultAdminRules} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";

import {IDenyList} from "./interfaces/IDenyList.sol";
import {Instructions} from "./Instructions.sol";

/// @title The accounts that take part in nothing: one list for all tokens of an issuer.
/// @notice A token asks it on transfer, mint, burn, approve and permit. Nothing is ever taken from an account by listing it.
contract DenyList is AccessControlDefaultAdminRules, Instructions, IDenyList {
    /// @notice Who may list accounts and take them off.
    bytes32 public constant ENFORCER_ROLE = keccak256("ENFORCER_ROLE");

    mapping(address account => bool denied) private _denied;

    /// @notice An account was listed, or taken off. The reason is in the InstructionExecuted before it.
    /// @param account Which one.
    /// @param denied True if it is on the list from now on.
    event DenialSet(address indexed account, bool denied);

    /// @notice No account was named.
    error AccountsMissing();

    /// @notice Create an empty list.
    /// @param adminDelay Seconds that must pass before another administrator can take over.
    /// @param admin Who grants roles.
    /// @param enforcer Who may list accounts.
    constructor(uint48 adminDelay, address admin, address enforcer) AccessControlDefaultAdminRules(adminDelay, admin) {
        emit DefaultAdminDelayChangeScheduled(adminDelay, uint48(block.timestamp));
        _grantRole(ENFORCER_ROLE, enforcer);
    }

    /// @notice Put accounts on the list. One that is on it stays.
    /// @param instruction The ledger's id of this.
    /// @param accounts Which ones.
    /// @param reason Why.
    function deny(bytes32 instruction, address[] calldata accounts, bytes calldata reason) external onlyRole(ENFORCER_ROLE) {
        _enforce(ENFORCER_ROLE, instruction, this.deny.selector, reason);
        _set(accounts, true);
    }

    /// @notice Take accounts off the list. One that is not on it stays off.
    /// @param instruction The ledger's id of this.
    /// @param accounts Which ones.
    /// @param reason Why.
    function allow(bytes32 instruction, address[] calldata accounts, bytes calldata reason) external onlyRole(ENFORCER_ROLE) {
        _enforce(ENFORCER_ROLE, instruction, this.allow.selector, reason);
        _set(accounts, false);
    }

    /// @notice Make instructions impossible that have not been carried out.
    /// @param role The role under which they would be; the caller's own.
    /// @param instructions Their ids.
    function cancelInstructions(bytes32 role, bytes32[] calldata instructions) external onlyRole(role) {
        _cancel(role, instructions);
    }

    /// @inheritdoc IDenyList
    function isDenied(address account) external view returns (bool denied) {
        return _denied[account];
    }

    function _set(address[] calldata accounts, bool denied) private {
        if (accounts.length == 0) revert AccountsMissing();
        for (uint256 i = 0; i < accounts.length; ++i) {
            _denied[accounts[i]] = denied;
            emit DenialSet(accounts[i], denied);
        }
    }
}
