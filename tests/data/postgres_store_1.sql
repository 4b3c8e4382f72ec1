-- A ledger of 19 entries in the tables of store version 1, as pg_dump gives it; root d06418dcdc17808e119fb0153ed99ebf7579fa1a4a0249fe7abf70a152e0730d.
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE SCHEMA ledger_acme;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE ledger_acme.checkpoints (
    size bigint NOT NULL,
    text text NOT NULL
);
CREATE TABLE ledger_acme.hash_tiles (
    level integer NOT NULL,
    number bigint NOT NULL,
    hashes bytea NOT NULL
)
WITH (autovacuum_vacuum_insert_threshold='200000', autovacuum_vacuum_insert_scale_factor='0', autovacuum_vacuum_cost_delay='0', autovacuum_freeze_min_age='0', autovacuum_analyze_threshold='200000', autovacuum_analyze_scale_factor='0');
ALTER TABLE ONLY ledger_acme.hash_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;
CREATE TABLE ledger_acme.right_edge (
    id integer NOT NULL,
    size bigint NOT NULL,
    hashes bytea NOT NULL,
    CONSTRAINT right_edge_id_check CHECK ((id = 0))
);
CREATE TABLE ledger_acme.store (
    id integer NOT NULL,
    version integer NOT NULL,
    ledger_id text NOT NULL,
    barriers bigint NOT NULL
);
CREATE TABLE ledger_acme.stored_events (
    originator_id text NOT NULL,
    originator_version bigint NOT NULL,
    topic text,
    state bytea,
    notification_id bigint NOT NULL
)
WITH (autovacuum_vacuum_insert_threshold='200000', autovacuum_vacuum_insert_scale_factor='0', autovacuum_vacuum_cost_delay='0', autovacuum_freeze_min_age='0', autovacuum_analyze_threshold='200000', autovacuum_analyze_scale_factor='0');
ALTER TABLE ONLY ledger_acme.stored_events ALTER COLUMN state SET STORAGE EXTERNAL;
CREATE SEQUENCE ledger_acme.stored_events_notification_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE ledger_acme.stored_events_notification_id_seq OWNED BY ledger_acme.stored_events.notification_id;
ALTER TABLE ONLY ledger_acme.stored_events ALTER COLUMN notification_id SET DEFAULT nextval('ledger_acme.stored_events_notification_id_seq'::regclass);
INSERT INTO ledger_acme.store VALUES
	(0, 1, 'acme', 1);
INSERT INTO ledger_acme.stored_events VALUES
	('acme', 1, 'stockledger.v1.LedgerOpened', '\x0880d0baf7939c980312086f70657261746f728201290a0461636d65121673746f636b6c65646765722e6c6f63616c2f61636d651880f5242080ade2042801', 1),
	('acme', 2, 'stockledger.v1.InstrumentRegistered', '\x0881d0baf7939c980312086f70657261746f721a1001a2046a3900739393554f93376c97952210739a4ee5597509f71a431393760bba89c202540a520a054141504c7810011a0f4141504c7820746f6b656e697365642001320c5553303337383333313030354008480150808084fea6dee1115a1331303030303030303030303030303030303030600268017001', 2),
	('acme', 3, 'stockledger.v1.HolderRegistered', '\x0882d0baf7939c980312086f70657261746f721a1001a2046a3900739393554f93376c979622104a3e7fa5c0adb34d00e6d60b7f5c409a92030b0a03682d31120244451801', 3),
	('acme', 4, 'stockledger.v1.AccountOpened', '\x0883d0baf7939c980312086f70657261746f721a1001a2046a3900739393554f93376c97972210f08d2f91be8eaf26eff55277132a0818b203100a07626f6f6b3a613010101a03682d31', 4),
	('acme', 5, 'stockledger.v1.UnitsTransferred', '\x0884d0baf7939c980312086f70657261746f728a01250a054141504c78120f6c65646765723a69737375616e63651a07626f6f6b3a613020c0843d', 5),
	('acme', 6, 'stockledger.v1.AccountOpened', '\x0885d0baf7939c980312086f70657261746f721a1001a2046a3900739393554f93376c97982210062738fbc9bf22c99a4d8cac8054d5b8b203100a07626f6f6b3a613110111a03682d31', 6),
	('acme', 7, 'stockledger.v1.UnitsTransferred', '\x0886d0baf7939c980312086f70657261746f728a01250a054141504c78120f6c65646765723a69737375616e63651a07626f6f6b3a613120c0843d', 7),
	('acme', 8, 'stockledger.v1.AccountOpened', '\x0887d0baf7939c980312086f70657261746f721a1001a2046a3900739393554f93376c979922105cfa4b6d4266f35862c4bd0b466c2e78b203100a07626f6f6b3a613210121a03682d31', 8),
	('acme', 9, 'stockledger.v1.UnitsTransferred', '\x0888d0baf7939c980312086f70657261746f728a01250a054141504c78120f6c65646765723a69737375616e63651a07626f6f6b3a613220c0843d', 9),
	('acme', 10, 'stockledger.v1.AccountOpened', '\x0889d0baf7939c980312086f70657261746f721a1001a2046a3900739393554f93376c979a22109ef4793707361e5a225c10f935edb522b203100a07626f6f6b3a613310131a03682d31', 10),
	('acme', 11, 'stockledger.v1.UnitsTransferred', '\x088ad0baf7939c980312086f70657261746f728a01250a054141504c78120f6c65646765723a69737375616e63651a07626f6f6b3a613320c0843d', 11),
	('acme', 12, 'stockledger.v1.UnitsTransferred', '\x088bd0baf7939c980312086f70657261746f721a1001a2046a3900700080000000000000002210f4a93adc665370dae6f82a44fb4ff6318a011b0a054141504c781207626f6f6b3a61301a07626f6f6b3a61312001', 12),
	('acme', 13, 'stockledger.v1.UnitsTransferred', '\x088cd0baf7939c980312086f70657261746f721a1001a2046a3900700080000000000000012210c18f3214ce9efe89783d5e88cf8e7e338a011b0a054141504c781207626f6f6b3a61311a07626f6f6b3a61322002', 13),
	('acme', 14, 'stockledger.v1.UnitsTransferred', '\x088dd0baf7939c980312086f70657261746f721a1001a2046a39007000800000000000000222109495438f883a06803c4462caea5c18838a011b0a054141504c781207626f6f6b3a61321a07626f6f6b3a61332003', 14),
	('acme', 15, 'stockledger.v1.UnitsTransferred', '\x088ed0baf7939c980312086f70657261746f721a1001a2046a39007000800000000000000322102c6109d52eca72422b13d5de606926fc8a011b0a054141504c781207626f6f6b3a61331a07626f6f6b3a61302004', 15),
	('acme', 16, 'stockledger.v1.UnitsTransferred', '\x088fd0baf7939c980312086f70657261746f721a1001a2046a39007000800000000000000422109b094b4c144e233df5bb0587050c1e218a011b0a054141504c781207626f6f6b3a61301a07626f6f6b3a61312005', 16),
	('acme', 17, 'stockledger.v1.UnitsTransferred', '\x0890d0baf7939c980312086f70657261746f721a1001a2046a39007000800000000000000522101f051947b9beb535a1737da74126ddad8a011b0a054141504c781207626f6f6b3a61311a07626f6f6b3a61322006', 17),
	('acme', 18, 'stockledger.v1.UnitsTransferred', '\x0891d0baf7939c980312086f70657261746f721a1001a2046a3900700080000000000000062210b212f0cc53621afcba46eb577122e3548a011b0a054141504c781207626f6f6b3a61321a07626f6f6b3a61332007', 18),
	('acme', 19, 'stockledger.v1.UnitsTransferred', '\x0892d0baf7939c980312086f70657261746f721a1001a2046a3900700080000000000000072210fcd1cc8043354dc1fa25aeb3d134924d8a011b0a054141504c781207626f6f6b3a61331a07626f6f6b3a61302008', 19);
SELECT pg_catalog.setval('ledger_acme.stored_events_notification_id_seq', 19, true);
ALTER TABLE ONLY ledger_acme.checkpoints
    ADD CONSTRAINT checkpoints_pkey PRIMARY KEY (size);
ALTER TABLE ONLY ledger_acme.hash_tiles
    ADD CONSTRAINT hash_tiles_pkey PRIMARY KEY (level, number);
ALTER TABLE ONLY ledger_acme.right_edge
    ADD CONSTRAINT right_edge_pkey PRIMARY KEY (id);
ALTER TABLE ONLY ledger_acme.store
    ADD CONSTRAINT store_pkey PRIMARY KEY (id);
ALTER TABLE ONLY ledger_acme.stored_events
    ADD CONSTRAINT stored_events_pkey PRIMARY KEY (originator_id, originator_version);
CREATE UNIQUE INDEX stored_events_notification_id_idx ON ledger_acme.stored_events USING btree (notification_id);
