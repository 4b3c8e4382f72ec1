// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title The accounts that take part in nothing.
interface IDenyList {
    /// @notice Tell whether an account is on the list.
    /// @param account Which one.
    /// @return denied True if it is.
    function isDenied(address account) external view returns (bool denied);
}
