#!/usr/bin/env node
// The compiler as the analyser calls it, which asks for a version and then feeds standard JSON. Its own command line cannot do the second
// with sources by name.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const solc = require(path.resolve(__dirname, "..", "node_modules", "solc"));

if (process.argv.includes("--version")) console.log(`solc, the solidity compiler commandline interface\nVersion: ${solc.version()}`);
else process.stdout.write(solc.compile(fs.readFileSync(0, "utf8")));
