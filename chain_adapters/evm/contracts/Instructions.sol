// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title The ledger's instructions, each carried out at most once.
/// @notice Every operation of the ledger carries the id of its instruction. A contract takes an id once for each role, so that an
/// instruction that is sent twice (by a second worker, with another nonce, under a new key) cannot have its effect twice; and an id can
/// be cancelled, after which the instruction can never land, provably.
/// @dev Ids are bits of a bitmap: numbers that follow each other share a word, so taking one costs an update (5,000 gas) and not a new
/// slot (22,100 gas). Ids that are hashes work too, at the price of a slot each.
abstract contract Instructions {
    /// @custom:storage-location erc7201:stockledger.Instructions
    struct InstructionStorage {
        /// One bit per id: the id's upper 248 bits name the word, its lower 8 the bit.
        mapping(bytes32 role => mapping(uint256 word => uint256 bits)) taken;
    }

    /// @dev keccak256(abi.encode(uint256(keccak256("stockledger.Instructions")) - 1)) & ~bytes32(uint256(0xff))
    bytes32 private constant INSTRUCTION_STORAGE = 0x67ef4b553cd74fc7bc653b906e649f690207cda9e6803df60ea1866e0c040300;

    /// @notice An instruction was carried out; its effects are the events of this contract that follow in the same transaction, up to the
    /// next one of these.
    /// @param instruction Its id.
    /// @param role The role under which it was.
    /// @param operation Selector of the operation.
    /// @param reason Why; never empty for an enforcement.
    event InstructionExecuted(bytes32 indexed instruction, bytes32 indexed role, bytes4 operation, bytes reason);

    /// @notice An instruction was not carried out and never will be.
    /// @param instruction Its id.
    /// @param role The role under which it would have been.
    event InstructionCancelled(bytes32 indexed instruction, bytes32 indexed role);

    /// @notice Zero is not an instruction's id.
    error InstructionMissing();

    /// @notice The instruction has been carried out, or cancelled.
    /// @param instruction Its id.
    /// @param role The role under which it was.
    error InstructionTaken(bytes32 instruction, bytes32 role);

    /// @notice An enforcement says why.
    error ReasonMissing();

    /// @notice Tell whether an instruction has been carried out or cancelled; the events tell which.
    /// @param role The role under which it would be.
    /// @param instruction Its id.
    /// @return taken True if it has.
    function instructionTaken(bytes32 role, bytes32 instruction) public view returns (bool taken) {
        return _instructions().taken[role][uint256(instruction) >> 8] & (1 << (uint256(instruction) & 0xff)) != 0;
    }

    /// @dev Take an id for ever.
    /// @param role The role under which it is.
    /// @param instruction Its id.
    /// @param operation Selector of the operation.
    /// @param reason Why, as the caller gave it.
    function _execute(bytes32 role, bytes32 instruction, bytes4 operation, bytes memory reason) internal {
        _take(role, instruction);
        emit InstructionExecuted(instruction, role, operation, reason);
    }

    /// @dev Take an id for ever, for an operation against somebody's will.
    /// @param role The role under which it is.
    /// @param instruction Its id.
    /// @param operation Selector of the operation.
    /// @param reason Why; not empty.
    function _enforce(bytes32 role, bytes32 instruction, bytes4 operation, bytes memory reason) internal {
        if (reason.length == 0) revert ReasonMissing();
        _execute(role, instruction, operation, reason);
    }

    /// @dev Take ids for ever, without any effect. All or none: an id that was taken reverts.
    /// @param role The role under which they would be.
    /// @param instructions Their ids.
    function _cancel(bytes32 role, bytes32[] calldata instructions) internal {
        for (uint256 i = 0; i < instructions.length; ++i) {
            _take(role, instructions[i]);
            emit InstructionCancelled(instructions[i], role);
        }
    }

    function _take(bytes32 role, bytes32 instruction) private {
        if (instruction == 0) revert InstructionMissing();
        mapping(uint256 word => uint256 bits) storage taken = _instructions().taken[role];
        uint256 word = uint256(instruction) >> 8;
        uint256 bit = 1 << (uint256(instruction) & 0xff);
        uint256 bits = taken[word];
        if (bits & bit != 0) revert InstructionTaken(instruction, role);
        taken[word] = bits | bit;
    }

    function _instructions() private pure returns (InstructionStorage storage $) {
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            $.slot := INSTRUCTION_STORAGE
        }
    }
}
