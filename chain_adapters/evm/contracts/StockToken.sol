// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControlDefaultAdminRulesUpgradeable} from
    "@openzeppelin/contracts-upgradeable/access/extensions/AccessControlDefaultAdminRulesUpgradeable.sol";
import {ERC20Upgradeable} from "@openzeppelin/contracts-upgradeable/token/ERC20/ERC20Upgradeable.sol";
import {ERC20PermitUpgradeable} from "@openzeppelin/contracts-upgradeable/token/ERC20/extensions/ERC20PermitUpgradeable.sol";
import {MulticallUpgradeable} from "@openzeppelin/contracts-upgradeable/utils/MulticallUpgradeable.sol";
import {IERC7802} from "@openzeppelin/contracts/interfaces/draft-IERC7802.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {Instructions} from "./Instructions.sol";
import {IDenyList} from "./interfaces/IDenyList.sol";
import {IERC7943} from "./interfaces/IERC7943.sol";
import {IERC8056, IERC8056Balances, IERC8056Conversion, IERC8056Pending} from "./interfaces/IERC8056.sol";

/// @title The units of one instrument on one chain.
/// @notice An ERC-20 over raw units that never rebase; a multiplier says what a unit stands for. What the ledger decides arrives as
/// instructions, each carried out at most once. Rules, in the order in which they are checked:
/// - The operation is not paused: transfers, mints and burns each have a pause of their own.
/// - Nobody who takes part is on the issuer's deny list: sender, receiver and spender of a transfer, who is minted to or burned from, and
///   both sides of an approval or permit.
/// - Units that are frozen do not leave: not by transfer, nor by burn.
/// - Supply never exceeds the allotment of this chain, whoever mints. Nobody who can mint can set it.
/// A forced transfer or burn passes the deny list for who loses the units, and freezes; a forced transfer passes the pause of transfers
/// too. Pauses of mints and burns have no exception.
/// @dev Runs behind a beacon's proxies. State is in namespaces (ERC-7201), to which later versions may only append.
contract StockToken is
    AccessControlDefaultAdminRulesUpgradeable,
    ERC20PermitUpgradeable,
    MulticallUpgradeable,
    Instructions,
    IERC7802,
    IERC7943,
    IERC8056,
    IERC8056Balances,
    IERC8056Conversion,
    IERC8056Pending
{
    /// @notice A mint or burn that is one of several.
    /// @param instruction The ledger's id of it.
    /// @param account Who is minted to or burned from.
    /// @param units How many units.
    struct Line {
        bytes32 instruction;
        address account;
        uint256 units;
    }

    /// @notice A role that somebody has from the start.
    /// @param role Which one.
    /// @param account Who has it.
    struct Grant {
        bytes32 role;
        address account;
    }

    /// @notice What a token is from the start.
    /// @param name As shown; also of the EIP-712 domain of permits.
    /// @param symbol As shown.
    /// @param decimals Of the units; the same on every chain.
    /// @param multiplier What a unit stands for, at scale 1e18; other than 1e18 where the token comes to a chain after a split.
    /// @param allotment Most units that may exist on this chain.
    /// @param adminDelay Seconds that must pass before another administrator can take over.
    /// @param admin Who grants roles.
    /// @param grants Roles given at once.
    struct Terms {
        string name;
        string symbol;
        uint8 decimals;
        uint256 multiplier;
        uint256 allotment;
        uint48 adminDelay;
        address admin;
        Grant[] grants;
    }

    /// @notice What is frozen of an account.
    /// @param whole Whatever it has and will have.
    /// @param units So many units; may exceed what it has. Counts beside `whole`, and stays when that ends.
    struct Freeze {
        bool whole;
        uint248 units;
    }

    /// @custom:storage-location erc7201:stockledger.StockToken
    struct TokenStorage {
        /// What was in force before effectiveAt, at scale 1e18.
        uint128 multiplier;
        /// What is in force from effectiveAt on, at scale 1e18.
        uint128 nextMultiplier;
        /// Seconds since 1970.
        uint64 effectiveAt;
        uint8 decimals;
        /// Bits: TRANSFERS, MINTS, BURNS.
        uint8 paused;
        /// Most units that may exist here.
        uint256 allotment;
        mapping(address account => Freeze freeze) frozen;
    }

    /// @notice May mint, up to the allotment.
    bytes32 public constant MINTER_ROLE = keccak256("MINTER_ROLE");
    /// @notice May burn its own units, and those of accounts that approved it.
    bytes32 public constant BURNER_ROLE = keccak256("BURNER_ROLE");
    /// @notice May mint and burn for a bridge (ERC-7802), up to the allotment.
    bytes32 public constant BRIDGE_ROLE = keccak256("BRIDGE_ROLE");
    /// @notice May set the allotment. Nobody has this role and can mint.
    bytes32 public constant ALLOTTER_ROLE = keccak256("ALLOTTER_ROLE");
    /// @notice May set the multiplier.
    bytes32 public constant MULTIPLIER_ROLE = keccak256("MULTIPLIER_ROLE");
    /// @notice May begin pauses.
    bytes32 public constant PAUSER_ROLE = keccak256("PAUSER_ROLE");
    /// @notice May end pauses.
    bytes32 public constant UNPAUSER_ROLE = keccak256("UNPAUSER_ROLE");
    /// @notice May freeze accounts and units, and transfer them by force.
    bytes32 public constant ENFORCER_ROLE = keccak256("ENFORCER_ROLE");
    /// @notice May burn any account's units without its approval; without this role, a redemption needs the holder's approval on chain.
    bytes32 public constant FORCED_BURNER_ROLE = keccak256("FORCED_BURNER_ROLE");

    /// @notice The pause of transfers between accounts.
    uint8 public constant TRANSFERS = 1;
    /// @notice The pause of mints, a bridge's included.
    uint8 public constant MINTS = 2;
    /// @notice The pause of burns, a bridge's and forced ones included.
    uint8 public constant BURNS = 4;

    /// @dev keccak256(abi.encode(uint256(keccak256("stockledger.StockToken")) - 1)) & ~bytes32(uint256(0xff))
    bytes32 private constant TOKEN_STORAGE = 0x29dcf996143e07bee65f8ad070035d45111f6a296f7468201e6371abc59cb100;
    uint256 private constant MULTIPLIER_SCALE = 1e18;

    /// @notice The deny list of the issuer; part of the code, so that all tokens of the beacon have the same.
    IDenyList public immutable denyList;

    bool private transient _reasonGiven;

    /// @notice The token was set up.
    /// @param name As shown; also of the EIP-712 domain of permits.
    /// @param symbol As shown.
    /// @param decimals Of the units.
    event TermsSet(string name, string symbol, uint8 decimals);

    /// @notice A permit was used; its Approval follows.
    /// @param owner Who signed it.
    /// @param nonce Its number; the account's next permit has the next.
    event NonceUsed(address indexed owner, uint256 nonce);

    /// @notice What is frozen of an account was set.
    /// @param account Whose units.
    /// @param whole True if whatever it has and will have is frozen from now on.
    /// @param units How many units are frozen from now on, beside that.
    event FreezeSet(address indexed account, bool whole, uint256 units);

    /// @notice Units were burned by force.
    /// @param from Who lost them.
    /// @param units How many.
    event ForcedBurn(address indexed from, uint256 units);

    /// @notice The allotment was set.
    /// @param units Most units that may exist here from now on.
    event AllotmentSet(uint256 units);

    /// @notice Pauses were set.
    /// @param paused What is paused from now on: the sum of TRANSFERS, MINTS and BURNS.
    /// @param account Who did it.
    event PausesSet(uint8 paused, address indexed account);

    /// @notice Transfers were paused; in the form other tokens have.
    /// @param account Who did it.
    event Paused(address account);

    /// @notice Transfers are allowed again; in the form other tokens have.
    /// @param account Who did it.
    event Unpaused(address account);

    /// @notice The reason for the enforcement in ERC-7943's own form that follows in this transaction.
    /// @param account Who gave it.
    /// @param reason Why.
    event ReasonGiven(address indexed account, bytes reason);

    /// @notice The operation is paused.
    /// @param operation TRANSFERS, MINTS or BURNS.
    error OperationPaused(uint8 operation);

    /// @notice The account is on the issuer's deny list: as spender, burner, or a side of an approval.
    /// @param account Which one.
    error AccountDenied(address account);

    /// @notice More units would exist here than were allotted.
    /// @param units How many were to be minted.
    /// @param supply How many exist.
    /// @param allotment How many may.
    error AllotmentExceeded(uint256 units, uint256 supply, uint256 allotment);

    /// @notice The account has a role with which this one must not go together: who mints neither sets the allotment nor grants roles.
    /// @param role The role that was to be given.
    /// @param account Who was to get it.
    error RolesIncompatible(bytes32 role, address account);

    /// @notice The multiplier set last is not the one the caller knows.
    /// @param expected What the caller knows.
    /// @param actual What it is, at scale 1e18.
    error MultiplierUnexpected(uint256 expected, uint256 actual);

    /// @notice A multiplier is 1 to 2^128 - 1 at scale 1e18.
    /// @param multiplier What was given.
    error MultiplierOutOfRange(uint256 multiplier);

    /// @notice Something is to be minted, burned or taken by force, so the units are not zero.
    error UnitsNotPositive();

    /// @notice Nothing was named.
    error LinesMissing();

    /// @notice A set of pauses is 0 to 7.
    /// @param operations What was given.
    error OperationsOutOfRange(uint8 operations);

    /// @notice More units than 2^248 - 1 cannot be counted as frozen.
    /// @param units What was given.
    error FrozenUnitsOutOfRange(uint256 units);

    /// @notice The deny list is no contract.
    /// @param account What was given.
    error DenyListMissing(address account);

    /// @notice Create the code for a beacon.
    /// @param denyList_ The deny list of the issuer.
    /// @custom:oz-upgrades-unsafe-allow constructor state-variable-immutable
    constructor(IDenyList denyList_) {
        if (address(denyList_).code.length == 0) revert DenyListMissing(address(denyList_));
        denyList = denyList_;
        _disableInitializers();
    }

    /// @notice Set a new token up, once.
    /// @param terms What it is.
    function initialize(Terms calldata terms) external initializer {
        __AccessControlDefaultAdminRules_init(terms.adminDelay, terms.admin);
        __ERC20_init(terms.name, terms.symbol);
        __ERC20Permit_init(terms.name);
        TokenStorage storage $ = _token();
        $.decimals = terms.decimals;
        $.nextMultiplier = _checked(terms.multiplier);
        $.effectiveAt = uint64(block.timestamp);
        $.multiplier = $.nextMultiplier;
        $.allotment = terms.allotment;
        emit TermsSet(terms.name, terms.symbol, terms.decimals);
        emit DefaultAdminDelayChangeScheduled(terms.adminDelay, uint48(block.timestamp));
        emit UIMultiplierUpdated(0, terms.multiplier, block.timestamp);
        emit AllotmentSet(terms.allotment);
        for (uint256 i = 0; i < terms.grants.length; ++i) {
            _grantRole(terms.grants[i].role, terms.grants[i].account);
        }
    }

    /// @notice Mint.
    /// @param instruction The ledger's id of it.
    /// @param account Who receives the units.
    /// @param units How many.
    function mint(bytes32 instruction, address account, uint256 units) external onlyRole(MINTER_ROLE) {
        _mintOne(instruction, account, units);
    }

    /// @notice Mint several times, all or nothing.
    /// @param lines The mints.
    function mintBatch(Line[] calldata lines) external onlyRole(MINTER_ROLE) {
        if (lines.length == 0) revert LinesMissing();
        for (uint256 i = 0; i < lines.length; ++i) {
            _mintOne(lines[i].instruction, lines[i].account, lines[i].units);
        }
    }

    /// @notice Burn the caller's own units, or those of an account that approved the caller for them.
    /// @param instruction The ledger's id of it.
    /// @param account Whose units.
    /// @param units How many.
    function burn(bytes32 instruction, address account, uint256 units) external onlyRole(BURNER_ROLE) {
        _burnOne(instruction, account, units);
    }

    /// @notice Burn several times, all or nothing.
    /// @param lines The burns.
    function burnBatch(Line[] calldata lines) external onlyRole(BURNER_ROLE) {
        if (lines.length == 0) revert LinesMissing();
        for (uint256 i = 0; i < lines.length; ++i) {
            _burnOne(lines[i].instruction, lines[i].account, lines[i].units);
        }
    }

    /// @inheritdoc IERC7802
    function crosschainMint(address to, uint256 amount) external onlyRole(BRIDGE_ROLE) {
        _mint(to, amount);
        emit CrosschainMint(to, amount, msg.sender);
    }

    /// @inheritdoc IERC7802
    function crosschainBurn(address from, uint256 amount) external onlyRole(BRIDGE_ROLE) {
        _burn(from, amount);
        emit CrosschainBurn(from, amount, msg.sender);
    }

    /// @notice Set the most units that may exist on this chain. Below the supply it stops mints and takes nothing from anybody.
    /// @param instruction The ledger's id of this.
    /// @param units Most units, those that exist included.
    function setAllotment(bytes32 instruction, uint256 units) external onlyRole(ALLOTTER_ROLE) {
        _execute(ALLOTTER_ROLE, instruction, this.setAllotment.selector, "");
        _token().allotment = units;
        emit AllotmentSet(units);
    }

    /// @notice Set the multiplier from a time on. A time that has passed means now, so that a transaction that lands late still counts.
    /// A multiplier that is still to come is replaced.
    /// @param instruction The ledger's id of this.
    /// @param expected The multiplier set last, in force or to come, at scale 1e18: nobody's step is lost by being overlooked.
    /// @param multiplier The new one, at scale 1e18.
    /// @param timestamp Seconds since 1970.
    /// @param reason Why: the corporate action.
    function scheduleMultiplier(bytes32 instruction, uint256 expected, uint256 multiplier, uint64 timestamp, bytes calldata reason)
        external
        onlyRole(MULTIPLIER_ROLE)
    {
        _enforce(MULTIPLIER_ROLE, instruction, this.scheduleMultiplier.selector, reason);
        TokenStorage storage $ = _token();
        if ($.nextMultiplier != expected) revert MultiplierUnexpected(expected, $.nextMultiplier);
        uint256 current = uiMultiplier();
        uint64 from = timestamp > block.timestamp ? timestamp : uint64(block.timestamp);
        $.multiplier = uint128(current);
        $.nextMultiplier = _checked(multiplier);
        $.effectiveAt = from;
        emit UIMultiplierUpdated(current, multiplier, from);
    }

    /// @notice Set what is paused. Beginning a pause takes one role, ending one another; who does both needs both.
    /// @param instruction The ledger's id of this.
    /// @param operations What is paused from now on, and nothing else: the sum of TRANSFERS, MINTS and BURNS.
    /// @param reason Why.
    function setPauses(bytes32 instruction, uint8 operations, bytes calldata reason) external {
        TokenStorage storage $ = _token();
        uint8 before = $.paused;
        bool ends = before & ~operations != 0;
        if (ends) _checkRole(UNPAUSER_ROLE);
        if (!ends || operations & ~before != 0) _checkRole(PAUSER_ROLE);
        // Whatever a late copy would do, it is the same instruction.
        _enforce(PAUSER_ROLE, instruction, this.setPauses.selector, reason);
        if (operations > TRANSFERS + MINTS + BURNS) revert OperationsOutOfRange(operations);
        $.paused = operations;
        emit PausesSet(operations, msg.sender);
        if ((before ^ operations) & TRANSFERS == 0) return;
        if (operations & TRANSFERS != 0) emit Paused(msg.sender);
        else emit Unpaused(msg.sender);
    }

    /// @notice Freeze an account, whatever it has and will have, or end that. Units frozen beside it stay so.
    /// @param instruction The ledger's id of this.
    /// @param account Which one.
    /// @param whole True to freeze it.
    /// @param reason Why.
    function freezeAccount(bytes32 instruction, address account, bool whole, bytes calldata reason) external onlyRole(ENFORCER_ROLE) {
        _enforce(ENFORCER_ROLE, instruction, this.freezeAccount.selector, reason);
        _setFreeze(account, whole, _token().frozen[account].units);
    }

    /// @notice Set how many units of an account are frozen. Whether all of it is frozen stays as it is.
    /// @param instruction The ledger's id of this.
    /// @param account Whose units.
    /// @param units How many from now on, not how many more; may exceed what the account has.
    /// @param reason Why.
    function freezeUnits(bytes32 instruction, address account, uint256 units, bytes calldata reason) external onlyRole(ENFORCER_ROLE) {
        _enforce(ENFORCER_ROLE, instruction, this.freezeUnits.selector, reason);
        if (units > type(uint248).max) revert FrozenUnitsOutOfRange(units);
        _setFreeze(account, _token().frozen[account].whole, uint248(units));
    }

    /// @notice Take units from an account and give them to another. Frozen units are taken last, and are then not frozen any more.
    /// @param instruction The ledger's id of this.
    /// @param from Who loses them.
    /// @param to Who receives them; not on the deny list.
    /// @param units How many.
    /// @param reason Why: the order of a court, with its reference.
    function forcedTransfer(bytes32 instruction, address from, address to, uint256 units, bytes calldata reason)
        external
        onlyRole(ENFORCER_ROLE)
    {
        // forcedTransfer(bytes32,address,address,uint256,bytes)
        _enforce(ENFORCER_ROLE, instruction, msg.sig, reason);
        _forceTransfer(from, to, units);
    }

    /// @notice Burn units of an account without its approval. Frozen units are taken last, and are then not frozen any more.
    /// @param instruction The ledger's id of this.
    /// @param from Who loses them.
    /// @param units How many.
    /// @param reason Why: the redemption that the holder asked the ledger for, or the order of a court, with its reference.
    function forcedBurn(bytes32 instruction, address from, uint256 units, bytes calldata reason) external onlyRole(FORCED_BURNER_ROLE) {
        _enforce(FORCED_BURNER_ROLE, instruction, this.forcedBurn.selector, reason);
        _requireNotPaused(BURNS);
        _thaw(from, units);
        emit ForcedBurn(from, units);
        ERC20Upgradeable._update(from, address(0), units);
    }

    /// @notice Give the reason for an enforcement in ERC-7943's own form, which has no place for one. It must follow in the same
    /// transaction (see multicall), and uses the reason up.
    /// @param reason Why.
    function giveReason(bytes calldata reason) external onlyRole(ENFORCER_ROLE) {
        if (reason.length == 0) revert ReasonMissing();
        _reasonGiven = true;
        emit ReasonGiven(msg.sender, reason);
    }

    /// @inheritdoc IERC7943
    /// @dev Needs giveReason before.
    function forcedTransfer(address from, address to, uint256 amount) external onlyRole(ENFORCER_ROLE) returns (bool result) {
        _useReason();
        _forceTransfer(from, to, amount);
        return true;
    }

    /// @inheritdoc IERC7943
    /// @dev Needs giveReason before. More than can exist means the whole account; less ends a freeze of the whole account.
    function setFrozenTokens(address account, uint256 amount) external onlyRole(ENFORCER_ROLE) returns (bool result) {
        _useReason();
        bool whole = amount > type(uint248).max;
        _setFreeze(account, whole, whole ? _token().frozen[account].units : uint248(amount));
        return true;
    }

    /// @notice Make instructions impossible that have not been carried out.
    /// @param role The role under which they would be; the caller's own.
    /// @param instructions Their ids.
    function cancelInstructions(bytes32 role, bytes32[] calldata instructions) external onlyRole(role) {
        _cancel(role, instructions);
    }

    /// @inheritdoc IERC7943
    function canSend(address account) public view returns (bool allowed) {
        return account != address(0) && !denyList.isDenied(account);
    }

    /// @inheritdoc IERC7943
    function canReceive(address account) public view returns (bool allowed) {
        return account != address(0) && !denyList.isDenied(account);
    }

    /// @inheritdoc IERC7943
    function canTransfer(address from, address to, uint256 amount) external view returns (bool allowed) {
        return !paused() && canSend(from) && canReceive(to) && amount <= _unfrozen(from);
    }

    /// @inheritdoc IERC7943
    /// @dev 2^256 - 1 if the whole account is.
    function getFrozenTokens(address account) public view returns (uint256 amount) {
        Freeze storage freeze = _token().frozen[account];
        return freeze.whole ? type(uint256).max : freeze.units;
    }

    /// @notice Tell what is frozen of an account, in both ways.
    /// @param account Which one.
    /// @return whole True if all it has and will have is.
    /// @return units How many units are, beside that.
    function freezeOf(address account) external view returns (bool whole, uint256 units) {
        Freeze storage freeze = _token().frozen[account];
        return (freeze.whole, freeze.units);
    }

    /// @notice Tell the most units that may exist on this chain.
    /// @return units How many.
    function allotment() external view returns (uint256 units) {
        return _token().allotment;
    }

    /// @notice Tell what is paused.
    /// @return operations The sum of TRANSFERS, MINTS and BURNS.
    function pauses() external view returns (uint8 operations) {
        return _token().paused;
    }

    /// @notice Tell whether transfers are paused.
    /// @return isPaused True if they are.
    function paused() public view returns (bool isPaused) {
        return _token().paused & TRANSFERS != 0;
    }

    /// @inheritdoc IERC20Metadata
    function decimals() public view override returns (uint8) {
        return _token().decimals;
    }

    /// @inheritdoc IERC8056
    function uiMultiplier() public view returns (uint256 multiplier) {
        TokenStorage storage $ = _token();
        return block.timestamp >= $.effectiveAt ? $.nextMultiplier : $.multiplier;
    }

    /// @inheritdoc IERC8056Pending
    function newUIMultiplier() external view returns (uint256 multiplier) {
        return _token().nextMultiplier;
    }

    /// @inheritdoc IERC8056Pending
    function effectiveAt() external view returns (uint256 timestamp) {
        return _token().effectiveAt;
    }

    /// @inheritdoc IERC8056Conversion
    function toUIAmount(uint256 rawAmount) public view returns (uint256 uiAmount) {
        return Math.mulDiv(rawAmount, uiMultiplier(), MULTIPLIER_SCALE);
    }

    /// @inheritdoc IERC8056Conversion
    function fromUIAmount(uint256 uiAmount) external view returns (uint256 rawAmount) {
        return Math.mulDiv(uiAmount, MULTIPLIER_SCALE, uiMultiplier());
    }

    /// @inheritdoc IERC8056Balances
    function balanceOfUI(address account) external view returns (uint256 uiAmount) {
        return toUIAmount(balanceOf(account));
    }

    /// @inheritdoc IERC8056Balances
    function totalSupplyUI() external view returns (uint256 uiAmount) {
        return toUIAmount(totalSupply());
    }

    /// @inheritdoc IERC165
    function supportsInterface(bytes4 interfaceId)
        public
        view
        override(AccessControlDefaultAdminRulesUpgradeable, IERC165)
        returns (bool)
    {
        return interfaceId == type(IERC20).interfaceId || interfaceId == type(IERC20Metadata).interfaceId
            || interfaceId == type(IERC20Permit).interfaceId || interfaceId == type(IERC7802).interfaceId
            || interfaceId == type(IERC7943).interfaceId || interfaceId == type(IERC8056).interfaceId
            || interfaceId == type(IERC8056Pending).interfaceId || interfaceId == type(IERC8056Conversion).interfaceId
            || interfaceId == type(IERC8056Balances).interfaceId
            || AccessControlDefaultAdminRulesUpgradeable.supportsInterface(interfaceId);
    }

    /// @inheritdoc IERC20
    /// @dev A spender on the deny list moves nobody's units.
    function transferFrom(address from, address to, uint256 value) public override(ERC20Upgradeable) returns (bool) {
        _requireNotDenied(msg.sender);
        return ERC20Upgradeable.transferFrom(from, to, value);
    }

    /// @dev Transfers, mints and burns all pass here, but for an enforcer's.
    /// @param from Who loses the units; zero for a mint.
    /// @param to Who receives them; zero for a burn.
    /// @param units How many.
    function _update(address from, address to, uint256 units) internal override {
        _requireNotPaused(from == address(0) ? MINTS : to == address(0) ? BURNS : TRANSFERS);
        if (to != address(0)) _requireReceiver(to);
        if (from == address(0)) {
            uint256 supply = totalSupply();
            uint256 most = _token().allotment;
            if (supply > most || units > most - supply) revert AllotmentExceeded(units, supply, most);
        } else {
            if (!canSend(from)) revert ERC7943CannotSend(from);
            uint256 unfrozen = _unfrozen(from);
            if (units > unfrozen && units <= balanceOf(from)) {
                revert ERC7943InsufficientUnfrozenBalance(from, units, unfrozen);
            }
        }
        ERC20Upgradeable._update(from, to, units);
    }

    /// @dev Approvals, permits and what a transfer or burn leaves of them all pass here, each with an event, so that events alone tell every
    /// allowance. An approval can always be taken back.
    /// @param owner Whose units.
    /// @param spender Who may move them.
    /// @param value How many.
    /// @param given True for an approval or a permit; false for what is left, whose sides the transfer or burn checks.
    function _approve(address owner, address spender, uint256 value, bool given) internal override {
        if (given && value > 0) {
            _requireNotDenied(owner);
            _requireNotDenied(spender);
        }
        ERC20Upgradeable._approve(owner, spender, value, true);
    }

    /// @dev An Approval does not tell a permit from an approval, and so not how many permits an account has used.
    /// @param owner Who signed the permit.
    /// @return nonce Its number.
    function _useNonce(address owner) internal override returns (uint256 nonce) {
        nonce = super._useNonce(owner);
        emit NonceUsed(owner, nonce);
    }

    /// @dev Who can create units can neither lift the limit on them nor give somebody the right to.
    /// @param role The role to give.
    /// @param account Who gets it.
    /// @return granted False if the account has it already.
    function _grantRole(bytes32 role, address account) internal override returns (bool granted) {
        bool mints = role == MINTER_ROLE || role == BRIDGE_ROLE;
        bool rules = role == ALLOTTER_ROLE || role == DEFAULT_ADMIN_ROLE;
        if (
            (mints && (hasRole(ALLOTTER_ROLE, account) || hasRole(DEFAULT_ADMIN_ROLE, account)))
                || (rules && (hasRole(MINTER_ROLE, account) || hasRole(BRIDGE_ROLE, account)))
        ) revert RolesIncompatible(role, account);
        return super._grantRole(role, account);
    }

    function _mintOne(bytes32 instruction, address account, uint256 units) private {
        if (units == 0) revert UnitsNotPositive();
        _execute(MINTER_ROLE, instruction, this.mint.selector, "");
        _mint(account, units);
    }

    function _burnOne(bytes32 instruction, address account, uint256 units) private {
        if (units == 0) revert UnitsNotPositive();
        _execute(BURNER_ROLE, instruction, this.burn.selector, "");
        if (account != msg.sender) {
            _requireNotDenied(msg.sender);
            _spendAllowance(account, msg.sender, units);
        }
        _burn(account, units);
    }

    function _forceTransfer(address from, address to, uint256 units) private {
        if (to == address(0)) revert ERC20InvalidReceiver(to);
        _requireReceiver(to);
        _thaw(from, units);
        emit ForcedTransfer(from, to, units);
        ERC20Upgradeable._update(from, to, units);
    }

    /// @dev Thaw what an enforcement takes beyond the units that are not frozen. What was frozen ahead, beyond the balance, stays frozen, and
    /// so does the account if all of it is.
    function _thaw(address from, uint256 units) private {
        if (units == 0) revert UnitsNotPositive();
        if (from == address(0)) revert ERC20InvalidSender(from);
        uint256 balance = balanceOf(from);
        if (units > balance) revert ERC20InsufficientBalance(from, balance, units);
        Freeze storage freeze = _token().frozen[from];
        uint256 frozen = freeze.units;
        uint256 free = frozen < balance ? balance - frozen : 0;
        if (units > free) _setFreeze(from, freeze.whole, uint248(frozen - (units - free)));
    }

    function _setFreeze(address account, bool whole, uint248 units) private {
        _token().frozen[account] = Freeze(whole, units);
        emit FreezeSet(account, whole, units);
        emit Frozen(account, getFrozenTokens(account));
    }

    function _useReason() private {
        if (!_reasonGiven) revert ReasonMissing();
        _reasonGiven = false;
    }

    function _requireNotPaused(uint8 operation) private view {
        if (_token().paused & operation != 0) revert OperationPaused(operation);
    }

    function _requireReceiver(address account) private view {
        if (!canReceive(account)) revert ERC7943CannotReceive(account);
    }

    function _requireNotDenied(address account) private view {
        if (denyList.isDenied(account)) revert AccountDenied(account);
    }

    function _unfrozen(address account) private view returns (uint256 units) {
        uint256 balance = balanceOf(account);
        uint256 frozen = getFrozenTokens(account);
        return frozen < balance ? balance - frozen : 0;
    }

    function _checked(uint256 multiplier) private pure returns (uint128 checkedMultiplier) {
        if (multiplier == 0 || multiplier > type(uint128).max) revert MultiplierOutOfRange(multiplier);
        return uint128(multiplier);
    }

    function _token() private pure returns (TokenStorage storage $) {
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            $.slot := TOKEN_STORAGE
        }
    }
}
