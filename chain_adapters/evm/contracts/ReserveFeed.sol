// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControlDefaultAdminRules} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";

import {Instructions} from "./Instructions.sol";
import {IAggregatorV3} from "./interfaces/IAggregatorV3.sol";

/// @title The shares behind an instrument, as custodians stated them.
/// @notice The ledger writes what its evidence adds up to; on all chains together, so no single chain's supply is to be compared with it.
/// A round is as old as its evidence: `updatedAt` is the time the oldest evidence is of, not the time it was written here, so that whoever
/// refuses stale answers refuses stale evidence. It may go back, as when a further custodian's older statement begins to count.
/// @dev Information for others. No mint here depends on it: that is the allotment of StockToken.
contract ReserveFeed is AccessControlDefaultAdminRules, Instructions, IAggregatorV3 {
    struct Round {
        uint128 shares;
        uint64 asOf;
        bytes32 evidence;
    }

    /// @notice May write.
    bytes32 public constant PUBLISHER_ROLE = keccak256("PUBLISHER_ROLE");
    /// @inheritdoc IAggregatorV3
    uint256 public constant version = 1;
    /// @inheritdoc IAggregatorV3
    uint8 public immutable decimals;
    /// @inheritdoc IAggregatorV3
    string public description;

    Round[] private _rounds;

    /// @notice The feed was created.
    /// @param description What the answers are about.
    /// @param decimals Decimals of the answers.
    event TermsSet(string description, uint8 decimals);

    /// @notice A round was written.
    /// @param round Its number.
    /// @param shares The reserve, in `decimals`.
    /// @param asOf The time the evidence is of, seconds since 1970.
    /// @param evidence Digest of the evidence.
    event ReservePublished(uint80 indexed round, uint256 shares, uint256 asOf, bytes32 evidence);

    /// @notice There is no such round.
    /// @param round Its number; 0 for the newest of none.
    error RoundMissing(uint80 round);

    /// @notice Evidence is not of the future.
    /// @param asOf The time it says it is of.
    /// @param time The time now.
    error EvidenceOfTheFuture(uint64 asOf, uint256 time);

    /// @notice Evidence has a digest.
    error EvidenceMissing();

    /// @notice Create an empty feed.
    /// @param text What the answers are about.
    /// @param decimalCount Decimals of the answers.
    /// @param adminDelay Seconds that must pass before another administrator can take over.
    /// @param admin Who grants roles.
    /// @param publisher Who may write.
    constructor(string memory text, uint8 decimalCount, uint48 adminDelay, address admin, address publisher)
        AccessControlDefaultAdminRules(adminDelay, admin)
    {
        description = text;
        decimals = decimalCount;
        emit TermsSet(text, decimalCount);
        emit DefaultAdminDelayChangeScheduled(adminDelay, uint48(block.timestamp));
        _grantRole(PUBLISHER_ROLE, publisher);
    }

    /// @notice Write a round.
    /// @param instruction The ledger's id of this.
    /// @param shares The reserve, in `decimals`; 0 is a figure like any other.
    /// @param asOf The time the evidence is of, seconds since 1970.
    /// @param evidence Digest of the evidence.
    function publish(bytes32 instruction, uint128 shares, uint64 asOf, bytes32 evidence) external onlyRole(PUBLISHER_ROLE) {
        _execute(PUBLISHER_ROLE, instruction, this.publish.selector, "");
        if (evidence == 0) revert EvidenceMissing();
        if (asOf > block.timestamp) revert EvidenceOfTheFuture(asOf, block.timestamp);
        _rounds.push(Round(shares, asOf, evidence));
        emit ReservePublished(uint80(_rounds.length), shares, asOf, evidence);
    }

    /// @notice Make instructions impossible that have not been carried out.
    /// @param role The role under which they would be; the caller's own.
    /// @param instructions Their ids.
    function cancelInstructions(bytes32 role, bytes32[] calldata instructions) external onlyRole(role) {
        _cancel(role, instructions);
    }

    /// @inheritdoc IAggregatorV3
    function latestRoundData()
        external
        view
        returns (uint80 roundId, int256 answer, uint256 startedAt, uint256 updatedAt, uint80 answeredInRound)
    {
        return getRoundData(uint80(_rounds.length));
    }

    /// @notice Tell the digest of the evidence behind a round.
    /// @param round Its number.
    /// @return digest What was written.
    function evidenceOf(uint80 round) external view returns (bytes32 digest) {
        return _round(round).evidence;
    }

    /// @inheritdoc IAggregatorV3
    function getRoundData(uint80 round)
        public
        view
        returns (uint80 roundId, int256 answer, uint256 startedAt, uint256 updatedAt, uint80 answeredInRound)
    {
        Round storage found = _round(round);
        return (round, int256(uint256(found.shares)), found.asOf, found.asOf, round);
    }

    function _round(uint80 round) private view returns (Round storage found) {
        if (round == 0 || round > _rounds.length) revert RoundMissing(round);
        return _rounds[round - 1];
    }
}
