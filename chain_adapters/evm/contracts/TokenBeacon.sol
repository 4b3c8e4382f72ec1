// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {UpgradeableBeacon} from "@openzeppelin/contracts/proxy/beacon/UpgradeableBeacon.sol";

/// @title The code that all tokens of an issuer run.
/// @notice One upgrade reaches all tokens in one transaction: no two of them ever follow different rules. Its owner is a key of its own, best
/// a timelock. Ownership changes hands in two steps, so that it cannot be lost to a mistyped address.
contract TokenBeacon is UpgradeableBeacon, Ownable2Step {
    /// @notice Create the beacon.
    /// @param code The first implementation of StockToken.
    /// @param initialOwner Who may upgrade.
    constructor(address code, address initialOwner) UpgradeableBeacon(code, initialOwner) {}

    /// @notice Offer ownership; it passes when the new owner accepts.
    /// @param newOwner Who is to accept.
    function transferOwnership(address newOwner) public override(Ownable, Ownable2Step) onlyOwner {
        Ownable2Step.transferOwnership(newOwner);
    }

    function _transferOwnership(address newOwner) internal override(Ownable, Ownable2Step) {
        Ownable2Step._transferOwnership(newOwner);
    }
}
