// Compile the contracts of the EVM adapter, or check that what is committed is what would be compiled.
//
//   node tools/compile_contracts.cjs          write chain_adapters/evm/artifacts/*.json
//   node tools/compile_contracts.cjs --check  write nothing; fail when the committed files differ
//   node tools/compile_contracts.cjs --standard-json FILE  write the compiler's input, for an analyser that runs the compiler itself
//
// The settings are fixed here: the same sources give the same bytes everywhere, so whoever has the sources can check a deployed contract.
// State that a later version would move is refused in both modes: deployed proxies keep theirs.

"use strict";

const fs = require("node:fs");
const path = require("node:path");

const ROOT = path.resolve(__dirname, "..");
const CONTRACTS = path.join(ROOT, "chain_adapters", "evm", "contracts");
const ARTIFACTS = path.join(ROOT, "chain_adapters", "evm", "artifacts");
const MODULES = path.join(ROOT, "node_modules");

const SETTINGS = { optimizer: { enabled: true, runs: 1000 }, evmVersion: "cancun", metadata: { bytecodeHash: "ipfs" } };
const BORROWED = { BeaconProxy: "@openzeppelin/contracts/proxy/beacon/BeaconProxy.sol" };
const CODE_BYTES_MAX = 24_576; // EIP-170

function own() {
  const found = {};
  for (const name of fs.readdirSync(CONTRACTS, { recursive: true }).map(String).sort()) {
    if (name.endsWith(".sol")) found[`contracts/${name}`] = path.join(CONTRACTS, name);
  }
  return found;
}

// All sources by the names they are imported under, so that the compiler needs no access to files.
function readSources() {
  const sources = {};
  const wanted = [...Object.keys(own()), ...Object.values(BORROWED)];
  while (wanted.length > 0) {
    const name = wanted.pop();
    if (name in sources) continue;
    const file = name.startsWith("contracts/") ? path.join(CONTRACTS, name.slice("contracts/".length)) : path.join(MODULES, name);
    const content = fs.readFileSync(file, "utf8");
    sources[name] = { content };
    for (const [, imported] of content.matchAll(/^import [^;]*?"([^"]+)";/gms)) {
      wanted.push(imported.startsWith(".") ? path.posix.join(path.posix.dirname(name), imported) : imported);
    }
  }
  return Object.fromEntries(Object.entries(sources).sort(([a], [b]) => (a < b ? -1 : 1)));
}

const ARTIFACT_OUTPUTS = ["abi", "evm.bytecode.object", "evm.deployedBytecode.object", "evm.deployedBytecode.immutableReferences", "userdoc"];
const ANALYSER_OUTPUTS = ["abi", "devdoc", "evm.bytecode", "evm.deployedBytecode", "evm.methodIdentifiers", "metadata", "userdoc"];

function standardInput(outputs) {
  const outputSelection = { "*": { "*": outputs, "": ["ast"] } };
  return { language: "Solidity", sources: readSources(), settings: { ...SETTINGS, outputSelection } };
}

function compile(solc) {
  const output = JSON.parse(solc.compile(JSON.stringify(standardInput(ARTIFACT_OUTPUTS))));
  const faults = (output.errors ?? []).filter((error) => error.severity === "error" || error.sourceLocation?.file.startsWith("contracts/"));
  if (faults.length > 0) throw new Error(faults.map((fault) => fault.formattedMessage).join("\n"));
  return output;
}

// The last two bytes tell the length of the CBOR before them, whose first value is the IPFS multihash of the metadata.
function metadataHash(code) {
  const length = Number.parseInt(code.slice(-4), 16);
  const cbor = code.slice(-4 - 2 * length, -4);
  const start = cbor.indexOf("64697066735822"); // "ipfs", then a byte string of 34
  if (start < 0) throw new Error("the code ends with no metadata hash");
  return `0x${cbor.slice(start + 14, start + 14 + 68)}`;
}

function walk(node, visit) {
  if (node === null || typeof node !== "object") return;
  if (node.nodeType) visit(node);
  for (const child of Object.values(node)) walk(child, visit);
}

// ERC-7201: the members of each struct that is marked as a namespace, by namespace, in order, for a contract and all it inherits.
function namespaces(output, source, contract) {
  const contracts = new Map();
  for (const { ast } of Object.values(output.sources)) walk(ast, (node) => node.nodeType === "ContractDefinition" && contracts.set(node.id, node));
  const [definition] = [...contracts.values()].filter((node) => node.name === contract && output.sources[source].ast.nodes.some((top) => top.id === node.id));
  const found = {};
  for (const id of definition.linearizedBaseContracts) {
    for (const node of contracts.get(id).nodes.filter((member) => member.nodeType === "StructDefinition")) {
      const marked = /@custom:storage-location erc7201:(\S+)/.exec(node.documentation?.text ?? "");
      if (marked) found[marked[1]] = node.members.map((member) => `${member.typeDescriptions.typeString} ${member.name}`);
    }
  }
  return Object.fromEntries(Object.entries(found).sort(([a], [b]) => (a < b ? -1 : 1)));
}

function artifacts(solc) {
  const output = compile(solc);
  const made = {};
  const wanted = { ...BORROWED };
  for (const source of Object.keys(own()).filter((name) => !name.includes("/interfaces/"))) wanted[path.posix.basename(source, ".sol")] = source;
  for (const [name, source] of Object.entries(wanted)) {
    const contract = output.contracts[source][name];
    const code = contract.evm.deployedBytecode.object;
    if (code === "") continue; // abstract
    if (code.length / 2 > CODE_BYTES_MAX) throw new Error(`${name} has ${code.length / 2} bytes of code, a chain takes ${CODE_BYTES_MAX}`);
    const notices = Object.entries(contract.userdoc.errors ?? {}).map(([signature, texts]) => [signature, texts[0].notice]);
    made[name] = {
      contract: name,
      source,
      compiler: `solc ${solc.version()}`,
      settings: SETTINGS,
      metadata_hash: metadataHash(code),
      namespaces: namespaces(output, source, name),
      errors: Object.fromEntries(notices.sort(([a], [b]) => (a < b ? -1 : 1))),
      abi: contract.abi,
      bytecode: `0x${contract.evm.bytecode.object}`,
      deployed_bytecode: `0x${code}`,
      immutables: Object.values(contract.evm.deployedBytecode.immutableReferences ?? {}).flat().sort((a, b) => a.start - b.start),
    };
  }
  return made;
}

// One member of the ABI a line: a change can be read in a diff.
function format(artifact) {
  const lines = Object.entries(artifact).map(([key, value]) => {
    if (key !== "abi") return `  ${JSON.stringify(key)}: ${JSON.stringify(value)}`;
    return `  "abi": [\n${value.map((member) => `    ${JSON.stringify(member)}`).join(",\n")}\n  ]`;
  });
  return `{\n${lines.join(",\n")}\n}\n`;
}

function movedState(before, after) {
  return Object.entries(before.namespaces).flatMap(([namespace, members]) =>
    members.filter((member, place) => after.namespaces[namespace]?.[place] !== member).map((member) => `${after.contract}: ${namespace}: ${member}`),
  );
}

function main(argv) {
  if (argv[0] === "--standard-json") {
    fs.writeFileSync(argv[1], JSON.stringify(standardInput(ANALYSER_OUTPUTS)));
    return 0;
  }
  const check = argv.includes("--check");
  const made = artifacts(require(path.join(MODULES, "solc")));
  fs.mkdirSync(ARTIFACTS, { recursive: true });
  const names = new Set([...Object.keys(made).map((name) => `${name}.json`), ...fs.readdirSync(ARTIFACTS)]);
  const drift = [];
  for (const file of [...names].sort()) {
    const target = path.join(ARTIFACTS, file);
    const present = fs.existsSync(target) ? fs.readFileSync(target, "utf8") : undefined;
    const artifact = made[path.basename(file, ".json")];
    const moved = present && artifact ? movedState(JSON.parse(present), artifact) : [];
    if (moved.length > 0) {
      console.error(`contracts: state of deployed proxies would move, append instead: ${moved.join("; ")}`);
      return 1;
    }
    const wanted = artifact ? format(artifact) : undefined;
    if (present === wanted) continue;
    drift.push(file);
    if (check) continue;
    if (wanted === undefined) fs.rmSync(target);
    else fs.writeFileSync(target, wanted);
  }
  if (check && drift.length > 0) {
    console.error(`contracts: artifacts differ from their sources, run \`make contracts\`: ${drift.join(", ")}`);
    return 1;
  }
  const sizes = Object.values(made).map((artifact) => `${artifact.contract} ${(artifact.deployed_bytecode.length - 2) / 2}`);
  console.log(`contracts: ${Object.keys(made).length} artifacts, ${drift.length} ${check ? "differ" : "written or removed"}; bytes of code: ${sizes.join(", ")}`);
  return 0;
}

if (require.main === module) process.exitCode = main(process.argv.slice(2));
module.exports = { movedState };
