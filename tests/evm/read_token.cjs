// An outside client: ethers, told nothing but a node, an address and the standards' own signatures.
"use strict";
const path = require("node:path");
const { ethers } = require(path.resolve(__dirname, "..", "..", "node_modules", "ethers"));

const STANDARDS = [
  "function name() view returns (string)",
  "function symbol() view returns (string)",
  "function decimals() view returns (uint8)",
  "function totalSupply() view returns (uint256)",
  "function balanceOf(address) view returns (uint256)",
  "function nonces(address) view returns (uint256)",
  "function paused() view returns (bool)",
  "function uiMultiplier() view returns (uint256)",
  "function newUIMultiplier() view returns (uint256)",
  "function effectiveAt() view returns (uint256)",
  "function balanceOfUI(address) view returns (uint256)",
  "function hasRole(bytes32,address) view returns (bool)",
  "function owner() view returns (address)",
  "function supportsInterface(bytes4) view returns (bool)",
  "function getFrozenTokens(address) view returns (uint256)",
  "function canTransfer(address,address,uint256) view returns (bool)",
  "function eip712Domain() view returns (bytes1,string,string,uint256,address,bytes32,uint256[])",
  "event Transfer(address indexed from, address indexed to, uint256 value)",
  "event UIMultiplierUpdated(uint256 oldMultiplier, uint256 newMultiplier, uint256 effectiveAtTimestamp)",
  "event RoleGranted(bytes32 indexed role, address indexed account, address indexed sender)",
  "event Paused(address account)",
  "event Frozen(address indexed account, uint256 amount)",
];

async function main([url, address, holder, other]) {
  const provider = new ethers.JsonRpcProvider(url, undefined, { staticNetwork: true, batchMaxCount: 1 });
  const token = new ethers.Contract(address, STANDARDS, provider);
  const beacon = ethers.dataSlice(await provider.getStorage(address, "0xa3f0ad74e5423aebfd80d3ef4346578335a9a72aeaee59ff6cb3582b35133d50"), 12);
  const events = async (name) => (await token.queryFilter(name, 0)).map((event) => event.args.map(String));
  const domain = await token.eip712Domain();
  const seen = {
    name: await token.name(),
    symbol: await token.symbol(),
    decimals: Number(await token.decimals()),
    supply: String(await token.totalSupply()),
    shown_balance: ethers.formatUnits(await token.balanceOfUI(holder), await token.decimals()),
    raw_balance: ethers.formatUnits(await token.balanceOf(holder), await token.decimals()),
    multiplier: ethers.formatUnits(await token.uiMultiplier(), 18),
    next_multiplier: ethers.formatUnits(await token.newUIMultiplier(), 18),
    effective_at: String(await token.effectiveAt()),
    paused: await token.paused(),
    frozen: String(await token.getFrozenTokens(holder)),
    can_transfer: await token.canTransfer(holder, other, 1),
    owner: await token.owner(),
    minter_role: await token.hasRole(ethers.id("MINTER_ROLE"), other),
    interfaces: await Promise.all(["0xa60bf13d", "0x3edbb4c4", "0x33331994", "0xffffffff"].map((id) => token.supportsInterface(id))),
    domain: [domain[1], domain[2], String(domain[3]), domain[4]],
    beacon: ethers.getAddress(beacon),
    transfers: await events("Transfer"),
    multipliers: await events("UIMultiplierUpdated"),
    roles_granted: (await events("RoleGranted")).length,
    pauses: await events("Paused"),
    freezes: await events("Frozen"),
  };
  provider.destroy();
  process.stdout.write(JSON.stringify(seen));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
