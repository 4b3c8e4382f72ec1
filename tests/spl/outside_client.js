// What @solana/spl-token, which knows nothing of us, makes of a mint; and the instructions it builds for the same things.
const token = require("@solana/spl-token");
const { Connection, PublicKey } = require("@solana/web3.js");

const text = (key) => (key === null || key === undefined ? null : new PublicKey(key).toBase58());

async function describe(url, address) {
  const connection = new Connection(url, "processed");
  const mint = await token.getMint(connection, new PublicKey(address), "processed", token.TOKEN_2022_PROGRAM_ID);
  const scaled = token.getScaledUiAmountConfig(mint);
  const pausable = token.getPausableConfig(mint);
  const metadata = await token.getTokenMetadata(connection, new PublicKey(address), "processed");
  const pointer = token.getMetadataPointerState(mint);
  const hook = token.getTransferHook(mint);
  return {
    extensions: token.getExtensionTypes(mint.tlvData).map((type) => token.ExtensionType[type]),
    decimals: mint.decimals,
    supply: mint.supply.toString(),
    mintAuthority: text(mint.mintAuthority),
    freezeAuthority: text(mint.freezeAuthority),
    permanentDelegate: text(token.getPermanentDelegate(mint).delegate),
    defaultState: token.getDefaultAccountState(mint).state,
    multiplier: scaled.multiplier,
    nextMultiplier: scaled.newMultiplier,
    nextMultiplierTime: scaled.newMultiplierEffectiveTimestamp.toString(),
    multiplierAuthority: text(scaled.authority),
    paused: pausable.paused,
    pauseAuthority: text(pausable.authority),
    hookAuthority: text(hook.authority),
    hookProgram: text(hook.programId),
    metadataAddress: text(pointer.metadataAddress),
    metadata: { name: metadata.name, symbol: metadata.symbol, uri: metadata.uri, additional: metadata.additionalMetadata },
  };
}

async function hold(url, mint, owner) {
  const connection = new Connection(url, "processed");
  const address = token.getAssociatedTokenAddressSync(new PublicKey(mint), new PublicKey(owner), true, token.TOKEN_2022_PROGRAM_ID);
  const account = await token.getAccount(connection, address, "processed", token.TOKEN_2022_PROGRAM_ID);
  return { address: text(address), units: account.amount.toString(), frozen: account.isFrozen, owner: text(account.owner) };
}

// Instructions for the keys given, each as the bytes that count.
function build([mint, account, other, authority, payer]) {
  const program = token.TOKEN_2022_PROGRAM_ID;
  const keys = [mint, account, other, authority, payer].map((key) => new PublicKey(key));
  const [m, a, o, k, p] = keys;
  const built = {
    metadataPointer: token.createInitializeMetadataPointerInstruction(m, k, m, program),
    permanentDelegate: token.createInitializePermanentDelegateInstruction(m, k, program),
    defaultAccountState: token.createInitializeDefaultAccountStateInstruction(m, token.AccountState.Initialized, program),
    scaledUiAmount: token.createInitializeScaledUiAmountConfigInstruction(m, k, 1.5, program),
    pausable: token.createInitializePausableConfigInstruction(m, k, program),
    transferHook: token.createInitializeTransferHookInstruction(m, k, PublicKey.default, program),
    mint: token.createInitializeMint2Instruction(m, 8, k, k, program),
    mintTo: token.createMintToCheckedInstruction(m, a, k, 123456789n, 8, [], program),
    burn: token.createBurnCheckedInstruction(a, m, k, 123456789n, 8, [], program),
    transfer: token.createTransferCheckedInstruction(a, m, o, k, 123456789n, 8, [], program),
    freeze: token.createFreezeAccountInstruction(a, m, k, [], program),
    thaw: token.createThawAccountInstruction(a, m, k, [], program),
    pause: token.createPauseInstruction(m, k, [], program),
    resume: token.createResumeInstruction(m, k, [], program),
    updateMultiplier: token.createUpdateMultiplierDataInstruction(m, k, 2.5, 1800000000n, [], program),
    updateDefaultAccountState: token.createUpdateDefaultAccountStateInstruction(m, token.AccountState.Frozen, k, [], program),
    updateTransferHook: token.createUpdateTransferHookInstruction(m, k, o, [], program),
    setAuthority: token.createSetAuthorityInstruction(m, k, token.AuthorityType.PermanentDelegate, o, [], program),
    giveUpAuthority: token.createSetAuthorityInstruction(m, k, token.AuthorityType.MintTokens, null, [], program),
    closeAccount: token.createCloseAccountInstruction(a, p, k, [], program),
    amountToUiAmount: token.createAmountToUiAmountInstruction(m, 123456789n, program),
    associatedAccount: token.createAssociatedTokenAccountIdempotentInstruction(
      p, token.getAssociatedTokenAddressSync(m, o, true, program), o, m, program),
  };
  return Object.fromEntries(
    Object.entries(built).map(([name, instruction]) => [
      name,
      {
        program: text(instruction.programId),
        data: instruction.data.toString("hex"),
        accounts: instruction.keys.map((key) => [text(key.pubkey), key.isSigner, key.isWritable]),
      },
    ]),
  );
}

const [what, ...rest] = process.argv.slice(2);
const answers = { describe, hold, build: (...keys) => build(keys) };
Promise.resolve(answers[what](...rest)).then(
  (answer) => process.stdout.write(JSON.stringify(answer)),
  (error) => {
    process.stderr.write(String(error.stack));
    process.exit(1);
  },
);
