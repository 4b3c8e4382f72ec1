// Run a real Solana runtime with JSON-RPC on free loopback ports. Says on its first line where, and ends when its input does.
const { Surfnet } = require("@solana/surfpool-linux-x64-gnu");

const node = Surfnet.startWithConfig({
  offline: true,
  slotTimeMs: Number(process.argv[2]),
  blockProductionMode: "clock",
  airdropSol: 1_000_000_000_000,
});
console.log(JSON.stringify({ rpc_url: node.rpcUrl, ws_url: node.wsUrl, payer: [...node.payerSecretKey] }));
// Events that nobody takes hold everything up: slots take 75 ms whatever was asked for, and after some 130 transactions none is answered.
setInterval(() => node.drainEvents(), 50);
process.stdin.resume();
process.stdin.on("end", () => {
  node.stop();
  process.exit(0);
});
