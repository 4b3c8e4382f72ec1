// A real Solana runtime with JSON-RPC on a free loopback port. Says on its first line where, and ends when its input does.
const { Surfnet } = require("@solana/surfpool-linux-x64-gnu");

const node = Surfnet.startWithConfig({ offline: true, slotTimeMs: 40, blockProductionMode: "clock", airdropSol: 1_000_000_000_000 });
console.log(JSON.stringify({ url: node.rpcUrl, payer: [...node.payerSecretKey] }));
setInterval(() => node.drainEvents(), 50); // what nobody takes holds the node up
process.stdin.resume();
process.stdin.on("end", () => {
  node.stop();
  process.exit(0);
});
