// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title AggregatorV3Interface, the form in which DeFi reads a figure from outside the chain.
interface IAggregatorV3 {
    /// @notice Tell the decimals of the answers.
    /// @return count How many.
    function decimals() external view returns (uint8 count);

    /// @notice Tell what the answers are about.
    /// @return text One line.
    function description() external view returns (string memory text);

    /// @notice Tell the version of the feed's code.
    /// @return number 1 is the first.
    function version() external view returns (uint256 number);

    /// @notice Tell one round.
    /// @param round Its number.
    /// @return roundId The same number.
    /// @return answer The figure.
    /// @return startedAt Since when it holds, seconds since 1970.
    /// @return updatedAt Since when it holds, seconds since 1970.
    /// @return answeredInRound The same number.
    function getRoundData(uint80 round)
        external
        view
        returns (uint80 roundId, int256 answer, uint256 startedAt, uint256 updatedAt, uint80 answeredInRound);

    /// @notice Tell the newest round.
    /// @return roundId Its number.
    /// @return answer The figure.
    /// @return startedAt Since when it holds, seconds since 1970.
    /// @return updatedAt Since when it holds, seconds since 1970.
    /// @return answeredInRound The same number.
    function latestRoundData()
        external
        view
        returns (uint80 roundId, int256 answer, uint256 startedAt, uint256 updatedAt, uint80 answeredInRound);
}
