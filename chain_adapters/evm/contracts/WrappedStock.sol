// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC4626} from "@openzeppelin/contracts/token/ERC20/extensions/ERC4626.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {StockToken} from "./StockToken.sol";

/// @title A stock token wrapped for DeFi (ERC-4626).
/// @notice A share of it is a fixed claim on raw units, whatever the multiplier: a split or a dividend by multiplier changes no balance and no
/// exchange rate here, and no display that multiplies can count it twice. Units given to the wrapper raise what a share is worth; nothing
/// else changes it. Conversions round against whoever asks.
/// The token's rules hold here too: its deny list, its pause of transfers, its freezes (an account's frozen units are covered by what it
/// has of both together), and its enforcers.
/// @dev Shares have 6 decimals more than the token, so who gives units to make others' deposits round to nothing loses a million times
/// more than he can gain.
contract WrappedStock is ERC4626 {
    /// @notice The wrapper was created.
    /// @param asset The token.
    /// @param name As shown.
    /// @param symbol As shown.
    /// @param decimals Of the shares.
    event TermsSet(address indexed asset, string name, string symbol, uint8 decimals);

    /// @notice Shares were taken from one account and given to another by an enforcer of the token.
    /// @param from Who lost them.
    /// @param to Who received them.
    /// @param shares How many.
    /// @param reason Why.
    event ForcedShareTransfer(address indexed from, address indexed to, uint256 shares, bytes reason);

    /// @notice The account is on the issuer's deny list.
    /// @param account Which one.
    error AccountDenied(address account);

    /// @notice Transfers of the token are paused, and of its wrapper with them.
    error TransfersPaused();

    /// @notice The shares are there, but needed to cover what is frozen of the account's units.
    /// @param account Whose shares.
    /// @param shares How many were to leave.
    /// @param movable How many may.
    error SharesFrozen(address account, uint256 shares, uint256 movable);

    /// @notice Only an enforcer of the token takes shares by force.
    /// @param account Who tried.
    error EnforcerRequired(address account);

    /// @notice An enforcement says why.
    error ReasonMissing();

    /// @notice Create the wrapper of a token.
    /// @param token The token.
    /// @param name As shown.
    /// @param symbol As shown.
    constructor(StockToken token, string memory name, string memory symbol) ERC20(name, symbol) ERC4626(token) {
        emit TermsSet(address(token), name, symbol, decimals());
    }

    /// @notice Take shares from an account and give them to another, past freezes and pauses.
    /// @param from Who loses them.
    /// @param to Who receives them; not on the deny list.
    /// @param shares How many.
    /// @param reason Why.
    function forcedTransfer(address from, address to, uint256 shares, bytes calldata reason) external {
        StockToken token = _stock();
        if (!token.hasRole(token.ENFORCER_ROLE(), msg.sender)) revert EnforcerRequired(msg.sender);
        if (reason.length == 0) revert ReasonMissing();
        if (from == address(0)) revert ERC20InvalidSender(from);
        if (to == address(0)) revert ERC20InvalidReceiver(to);
        if (!token.canReceive(to)) revert AccountDenied(to);
        emit ForcedShareTransfer(from, to, shares, reason);
        ERC20._update(from, to, shares);
    }

    /// @notice Tell how many shares of an account may leave it: those not needed to cover what is frozen of its units.
    /// @param account Whose shares.
    /// @return shares How many.
    function movableShares(address account) public view returns (uint256 shares) {
        StockToken token = _stock();
        uint256 held = balanceOf(account);
        uint256 frozen = token.getFrozenTokens(account);
        uint256 outside = token.balanceOf(account);
        if (frozen <= outside) return held;
        uint256 missing = frozen - outside;
        if (missing > convertToAssets(held)) return 0;
        uint256 locked = _convertToShares(missing, Math.Rounding.Ceil);
        return locked < held ? held - locked : 0;
    }

    /// @inheritdoc ERC4626
    /// @dev Nothing for who may not receive, and while transfers are paused.
    function maxDeposit(address receiver) public view override returns (uint256 assets) {
        return _accepts(receiver) ? type(uint256).max : 0;
    }

    /// @inheritdoc ERC4626
    /// @dev Nothing for who may not receive, and while transfers are paused.
    function maxMint(address receiver) public view override returns (uint256 shares) {
        return _accepts(receiver) ? type(uint256).max : 0;
    }

    /// @inheritdoc ERC4626
    /// @dev Only what may leave both the owner and this contract.
    function maxRedeem(address owner) public view override returns (uint256 shares) {
        StockToken token = _stock();
        if (token.paused() || !token.canSend(owner) || !token.canSend(address(this))) return 0;
        uint256 assets = totalAssets();
        uint256 frozen = token.getFrozenTokens(address(this));
        uint256 movable = movableShares(owner);
        if (frozen == 0) return movable;
        return frozen < assets ? Math.min(movable, convertToShares(assets - frozen)) : 0;
    }

    /// @dev Deposits, withdrawals and transfers all pass here, but for an enforcer's.
    /// @param from Who loses shares; zero for a deposit.
    /// @param to Who receives them; zero for a withdrawal.
    /// @param shares How many.
    function _update(address from, address to, uint256 shares) internal override {
        StockToken token = _stock();
        if (token.paused()) revert TransfersPaused();
        _requireNotDenied(token, msg.sender);
        if (to != address(0)) _requireNotDenied(token, to);
        if (from != address(0)) {
            _requireNotDenied(token, from);
            uint256 movable = movableShares(from);
            if (shares > movable && shares <= balanceOf(from)) revert SharesFrozen(from, shares, movable);
        }
        ERC20._update(from, to, shares);
    }

    /// @dev What a transfer or withdrawal leaves of an approval is told like the approval, so that events alone tell every allowance.
    /// @param owner Whose shares.
    /// @param spender Who may move them.
    /// @param value How many.
    function _approve(address owner, address spender, uint256 value, bool) internal override {
        ERC20._approve(owner, spender, value, true);
    }

    function _requireNotDenied(StockToken token, address account) private view {
        if (!token.canSend(account)) revert AccountDenied(account);
    }

    function _accepts(address receiver) private view returns (bool accepts) {
        StockToken token = _stock();
        return !token.paused() && token.canReceive(receiver) && token.canReceive(address(this));
    }

    function _stock() private view returns (StockToken token) {
        return StockToken(asset());
    }

    function _decimalsOffset() internal pure override returns (uint8 offset) {
        return 6;
    }
}
