// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title ERC-8056, scaled UI amount: what a unit stands for. ERC-165 id 0xa60bf13d.
/// @notice balanceOf, transfer and allowances stay in raw units; the multiplier says what to show for them.
interface IERC8056 {
    /// @notice A multiplier was set.
    /// @param oldMultiplier What was in force when it was set, at scale 1e18.
    /// @param newMultiplier What is in force from that time on, at scale 1e18.
    /// @param effectiveAtTimestamp The time, seconds since 1970.
    event UIMultiplierUpdated(uint256 oldMultiplier, uint256 newMultiplier, uint256 effectiveAtTimestamp);

    /// @notice Tell the multiplier in force now.
    /// @return multiplier At scale 1e18: 1e18 is one.
    function uiMultiplier() external view returns (uint256 multiplier);
}

/// @title The part of ERC-8056 about a multiplier that is still to come. ERC-165 id 0x4bd27648.
interface IERC8056Pending {
    /// @notice Tell the multiplier set last. It is still to come if it differs from the one in force.
    /// @return multiplier At scale 1e18.
    function newUIMultiplier() external view returns (uint256 multiplier);

    /// @notice Tell when the multiplier set last takes, or took, effect.
    /// @return timestamp Seconds since 1970.
    function effectiveAt() external view returns (uint256 timestamp);
}

/// @title The part of ERC-8056 that converts. ERC-165 id 0x57854fc3.
interface IERC8056Conversion {
    /// @notice Convert units to what is shown for them, rounded down.
    /// @param rawAmount Units.
    /// @return uiAmount What is shown, in the same decimals.
    function toUIAmount(uint256 rawAmount) external view returns (uint256 uiAmount);

    /// @notice Convert what is shown to units, rounded down.
    /// @param uiAmount What is shown, in the same decimals.
    /// @return rawAmount Units.
    function fromUIAmount(uint256 uiAmount) external view returns (uint256 rawAmount);
}

/// @title The part of ERC-8056 that shows balances. ERC-165 id 0xd890fd71.
interface IERC8056Balances {
    /// @notice Tell what is shown for an account, rounded down.
    /// @param account Whose units.
    /// @return uiAmount What is shown.
    function balanceOfUI(address account) external view returns (uint256 uiAmount);

    /// @notice Tell what is shown for all units together, rounded down once.
    /// @return uiAmount What is shown.
    function totalSupplyUI() external view returns (uint256 uiAmount);
}
