// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControlDefaultAdminRules} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {Base64} from "@openzeppelin/contracts/utils/Base64.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";

/// @title Signed checkpoints of one log, where nobody can take them back.
/// @notice A checkpoint counts as proven once somebody, with it or later, has brought the proof that the log at the one before is its
/// beginning (RFC 6962 section 2.1.2). The proof is checked here: for a log that was rewritten there is none, whoever has its keys. Anybody
/// may bring it, and the checkpoints themselves stay, signed: what is never proven is evidence.
/// The Ed25519 signatures are stored, not checked: `note` gives the C2SP signed note back, byte by byte, for whoever checks it.
contract CheckpointAnchor is AccessControlDefaultAdminRules {
    struct Checkpoint {
        uint64 size;
        uint64 anchoredAt;
        bool proven;
        bytes32 root;
        bytes signatures;
    }

    /// @notice May anchor.
    bytes32 public constant PUBLISHER_ROLE = keccak256("PUBLISHER_ROLE");

    /// @notice The log's origin: the first line of its checkpoints.
    string public origin;

    Checkpoint[] private _checkpoints;

    /// @notice A checkpoint was anchored.
    /// @param index Its number, from 0.
    /// @param size Size of the log.
    /// @param root Root of its tree.
    /// @param note The signed note.
    event CheckpointAnchored(uint256 indexed index, uint64 size, bytes32 root, string note);

    /// @notice The log at this checkpoint has the log at the one before as its beginning.
    /// @param index Its number.
    event CheckpointProven(uint256 indexed index);

    /// @notice A checkpoint is of a larger log than the one before.
    /// @param size Size of the log.
    /// @param newest Size of the log at the checkpoint before.
    error SizeNotGrowing(uint64 size, uint64 newest);

    /// @notice The proof does not lead from the checkpoint before to this one.
    /// @param size Size of the log.
    /// @param root Root of its tree.
    error CheckpointInconsistent(uint64 size, bytes32 root);

    /// @notice Signatures are lines that start with an em dash and a space, and end.
    error SignaturesMalformed();

    /// @notice There is no such checkpoint.
    /// @param index Its number.
    error CheckpointMissing(uint256 index);

    /// @notice Create an empty anchor.
    /// @param origin_ The log's origin.
    /// @param adminDelay Seconds that must pass before another administrator can take over.
    /// @param admin Who grants roles.
    /// @param publisher Who may anchor.
    constructor(string memory origin_, uint48 adminDelay, address admin, address publisher)
        AccessControlDefaultAdminRules(adminDelay, admin)
    {
        origin = origin_;
        emit DefaultAdminDelayChangeScheduled(adminDelay, uint48(block.timestamp));
        _grantRole(PUBLISHER_ROLE, publisher);
    }

    /// @notice Anchor a checkpoint. Sizes grow, so the same one cannot be anchored twice.
    /// @param size Size of the log.
    /// @param root Root of its tree.
    /// @param proof Consistency proof from the checkpoint before, or nothing for now; nothing for the first.
    /// @param signatures The note's signature lines: what follows its empty line.
    function anchor(uint64 size, bytes32 root, bytes32[] calldata proof, bytes calldata signatures) external onlyRole(PUBLISHER_ROLE) {
        uint256 index = _checkpoints.length;
        uint64 newest = index == 0 ? 0 : _checkpoints[index - 1].size;
        if (size <= newest) revert SizeNotGrowing(size, newest);
        if (bytes4(signatures) != 0xe2809420 || signatures[signatures.length - 1] != 0x0a) revert SignaturesMalformed();
        _checkpoints.push(Checkpoint(size, uint64(block.timestamp), index == 0, root, signatures));
        emit CheckpointAnchored(index, size, root, note(index));
        if (index == 0) emit CheckpointProven(0);
        if (proof.length > 0) prove(index, proof);
    }

    /// @notice Prove that the log at a checkpoint has the log at the one before as its beginning. Anybody may.
    /// @param index Number of the later one.
    /// @param proof Consistency proof from the one before.
    function prove(uint256 index, bytes32[] calldata proof) public {
        Checkpoint storage found = _checkpoint(index);
        if (index == 0 || !_isConsistent(_checkpoints[index - 1].size, found.size, _checkpoints[index - 1].root, found.root, proof)) {
            revert CheckpointInconsistent(found.size, found.root);
        }
        if (found.proven) return;
        found.proven = true;
        emit CheckpointProven(index);
    }

    /// @notice Tell how many checkpoints are anchored.
    /// @return number How many.
    function count() external view returns (uint256 number) {
        return _checkpoints.length;
    }

    /// @notice Tell a checkpoint.
    /// @param index Its number, from 0.
    /// @return size Size of the log.
    /// @return root Root of its tree.
    /// @return anchoredAt When it was anchored, seconds since 1970.
    /// @return proven True if it is known to be the one before, continued.
    function checkpoint(uint256 index) external view returns (uint64 size, bytes32 root, uint64 anchoredAt, bool proven) {
        Checkpoint storage found = _checkpoint(index);
        return (found.size, found.root, found.anchoredAt, found.proven);
    }

    /// @notice Tell the newest checkpoint's signed note.
    /// @return text As signed, with its signatures.
    function latestNote() external view returns (string memory text) {
        uint256 number = _checkpoints.length;
        if (number == 0) revert CheckpointMissing(0);
        return note(number - 1);
    }

    /// @notice Tell a checkpoint's signed note.
    /// @param index Its number, from 0.
    /// @return text As signed, with its signatures.
    function note(uint256 index) public view returns (string memory text) {
        Checkpoint storage found = _checkpoint(index);
        return string.concat(
            origin, "\n", Strings.toString(found.size), "\n", Base64.encode(bytes.concat(found.root)), "\n\n", string(found.signatures)
        );
    }

    function _checkpoint(uint256 index) private view returns (Checkpoint storage found) {
        if (index >= _checkpoints.length) revert CheckpointMissing(index);
        return _checkpoints[index];
    }

    /// @dev RFC 9162 section 2.1.4.2. Both roots are computed from the same nodes; `node` and `last` are the positions, level by level, of the
    /// old tree's last node and of the new tree's.
    function _isConsistent(uint64 oldSize, uint64 newSize, bytes32 oldRoot, bytes32 newRoot, bytes32[] calldata proof)
        private
        pure
        returns (bool consistent)
    {
        uint64 node = oldSize - 1;
        uint64 last = newSize - 1;
        for (; node & 1 == 1; node >>= 1) last >>= 1;
        // An old tree that is full is a node of the new one, so the proof does not repeat it.
        uint256 next = node == 0 ? 0 : 1;
        if (proof.length < next) return false;
        bytes32 first = node == 0 ? oldRoot : proof[0];
        (bytes32 oldHash, bytes32 newHash) = (first, first);
        for (; next < proof.length; ++next) {
            if (last == 0) return false;
            bytes32 sibling = proof[next];
            if (node & 1 == 1 || node == last) {
                oldHash = _hashNode(sibling, oldHash);
                newHash = _hashNode(sibling, newHash);
                for (; node & 1 == 0 && node != 0; node >>= 1) last >>= 1;
            } else {
                newHash = _hashNode(newHash, sibling);
            }
            node >>= 1;
            last >>= 1;
        }
        return last == 0 && oldHash == oldRoot && newHash == newRoot;
    }

    function _hashNode(bytes32 left, bytes32 right) private pure returns (bytes32 parent) {
        return sha256(abi.encodePacked(hex"01", left, right));
    }
}
