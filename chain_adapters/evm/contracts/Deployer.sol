// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {Create2} from "@openzeppelin/contracts/utils/Create2.sol";

/// @title Contracts at the same addresses on every chain.
/// @notice An address depends on who deploys, his salt and the creation code, and on nothing of the chain. The sender is part of it, so nobody
/// else can take it first; and a contract is created and set up in one call, so nobody else can set it up.
contract Deployer {
    /// @notice A contract was created.
    /// @param deployed Its address.
    /// @param sender Who deployed it.
    /// @param salt The salt he chose.
    event Deployed(address indexed deployed, address indexed sender, bytes32 salt);

    /// @notice Create a contract and call it once.
    /// @param salt Any number; the same for the same address on another chain.
    /// @param creationCode Creation code with its constructor's arguments.
    /// @param setup What to call it with; empty for nothing.
    /// @return deployed Its address.
    function deploy(bytes32 salt, bytes calldata creationCode, bytes calldata setup) external returns (address deployed) {
        deployed = Create2.deploy(0, _bind(msg.sender, salt), creationCode);
        emit Deployed(deployed, msg.sender, salt);
        if (setup.length > 0) Address.functionCall(deployed, setup);
    }

    /// @notice Tell where a contract is, or would be.
    /// @param sender Who deploys.
    /// @param salt The salt he chooses.
    /// @param creationCodeHash keccak256 of creation code with arguments.
    /// @return deployed Its address.
    function addressOf(address sender, bytes32 salt, bytes32 creationCodeHash) external view returns (address deployed) {
        return Create2.computeAddress(_bind(sender, salt), creationCodeHash);
    }

    function _bind(address sender, bytes32 salt) private pure returns (bytes32 bound) {
        return keccak256(abi.encode(sender, salt));
    }
}
