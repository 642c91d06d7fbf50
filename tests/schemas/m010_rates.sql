BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'startflow','m001_first_schema','2026-03-01 12:00:00');
INSERT INTO "_sqlite_migrations" VALUES(2,'startflow','m002_finding','2026-03-01 12:00:00');
INSERT INTO "_sqlite_migrations" VALUES(3,'startflow','m003_purging','2026-03-01 12:00:00');
INSERT INTO "_sqlite_migrations" VALUES(4,'startflow','m004_spanning','2026-03-01 12:00:00');
INSERT INTO "_sqlite_migrations" VALUES(5,'startflow','m005_holding','2026-03-01 12:00:00');
INSERT INTO "_sqlite_migrations" VALUES(6,'startflow','m006_causes','2026-03-01 12:00:00');
INSERT INTO "_sqlite_migrations" VALUES(7,'startflow','m007_lines','2026-03-01 12:00:00');
INSERT INTO "_sqlite_migrations" VALUES(8,'startflow','m008_commits','2026-03-01 12:00:00');
INSERT INTO "_sqlite_migrations" VALUES(9,'startflow','m009_leases','2026-03-01 12:00:00');
INSERT INTO "_sqlite_migrations" VALUES(10,'startflow','m010_rates','2026-03-01 12:00:00');
CREATE TABLE aliases (
    backend text not null,
    alias text not null,
    account text not null,
    primary key (backend, alias)
) strict, without rowid;
INSERT INTO "aliases" VALUES('rapidpro','1','fa6f2c37-c69e-4d8d-a596-ef17019c5886');
CREATE TABLE attempts (
    dispatch_id text not null references dispatches (id),
    number integer not null,
    start_id text not null,
    incarnation integer not null,
    begun_at integer not null,
    ended_at integer,
    outcome text,
    detail text, since integer, cause text, backend text,
    primary key (dispatch_id, number)
) strict, without rowid;
INSERT INTO "attempts" VALUES('crash-1',1,'crash',1,1772366405000000,NULL,NULL,NULL,1772366400000000,NULL,'rapidpro');
INSERT INTO "attempts" VALUES('done-1',1,'done',1,1772366400000000,1772366400000000,'ACCEPTED','',1772366400000000,NULL,'rapidpro');
INSERT INTO "attempts" VALUES('part-1',1,'part',1,1772366405000000,1772366405000000,'ACCEPTED','',1772366400000000,NULL,'rapidpro');
INSERT INTO "attempts" VALUES('part-2',1,'part',1,1772366405000000,1772366405000000,'REFUSED','',1772366400000000,NULL,'rapidpro');
CREATE TABLE backlogs (
    tenant text not null,
    backend text not null,
    scheduled integer not null,
    unsent integer not null,
    primary key (tenant, backend, scheduled)
) strict, without rowid;
INSERT INTO "backlogs" VALUES('default','rapidpro',0,151);
INSERT INTO "backlogs" VALUES('default','rapidpro',1,1);
CREATE TABLE changes (
    revision integer primary key autoincrement,
    start_id text not null references starts (id),
    state_before integer,
    standing text not null
) strict;
INSERT INTO "changes" VALUES(1,'done',NULL,'{"state":1,"progress":{"queued":0,"started":0,"completed":0,"failed":0,"interrupted":0,"skipped":0,"uncertain":0},"updated":1772366400000000}');
INSERT INTO "changes" VALUES(2,'part',NULL,'{"state":1,"progress":{"queued":0,"started":0,"completed":0,"failed":0,"interrupted":0,"skipped":0,"uncertain":0},"updated":1772366400000000}');
INSERT INTO "changes" VALUES(3,'crash',NULL,'{"state":1,"progress":{"queued":0,"started":0,"completed":0,"failed":0,"interrupted":0,"skipped":0,"uncertain":0},"updated":1772366400000000}');
INSERT INTO "changes" VALUES(4,'unsent',NULL,'{"state":1,"progress":{"queued":0,"started":0,"completed":0,"failed":0,"interrupted":0,"skipped":0,"uncertain":0},"updated":1772366400000000}');
INSERT INTO "changes" VALUES(5,'later',NULL,'{"state":1,"progress":{"queued":0,"started":0,"completed":0,"failed":0,"interrupted":0,"skipped":0,"uncertain":0},"updated":1772366400000000,"next":1772370000000000}');
INSERT INTO "changes" VALUES(6,'done',1,'{"state":2,"progress":{"queued":1,"started":0,"completed":0,"failed":0,"interrupted":0,"skipped":0,"uncertain":0},"external":"ext-done","updated":1772366400000000}');
INSERT INTO "changes" VALUES(7,'done',2,'{"state":4,"progress":{"queued":0,"started":0,"completed":1,"failed":0,"interrupted":0,"skipped":0,"uncertain":0},"external":"ext-done","updated":1772366405000000,"ended":1772366405000000}');
INSERT INTO "changes" VALUES(8,'part',1,'{"state":2,"progress":{"queued":1,"started":0,"completed":0,"failed":0,"interrupted":0,"skipped":0,"uncertain":0},"updated":1772366405000000}');
CREATE TABLE commits (
    head integer primary key,
    incarnation integer not null
) strict;
INSERT INTO "commits" VALUES(8,0);
CREATE TABLE dispatches (
    id text primary key,
    start_id text not null references starts (id),
    number integer not null,
    backend text not null,
    flow text not null,
    state integer not null,
    recipient_count integer not null,
    recipients text not null,
    due_at integer not null,
    expire_at integer,
    claimed_by integer,
    attempts integer not null default 0,
    external_id text,
    account text,
    accepted_at integer,
    contact_count integer,
    contact_started_count integer,
    failure text
, tenant text not null default '', recipient text, sought_from integer, sought_until integer, rounds integer not null default 0, ending integer not null default 0, moved_at integer, stalled integer not null default 0, proofs integer not null default 0, counted integer not null default 0, in_line integer not null default 0) strict;
INSERT INTO "dispatches" VALUES('done-1','done',1,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',4,1,'[["tel:+12060000001"],[],[]]',1772366400000000,1772452800000000,NULL,1,'ext-done','workspace',1772366400000000,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,1772366405000000,0,0,0,0);
INSERT INTO "dispatches" VALUES('part-1','part',1,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',2,1,'[["tel:+12060000010"],[],[]]',1772366400000000,1772452800000000,NULL,1,'ext-part','workspace',1772366405000000,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,1772366405000000,0,0,0,0);
INSERT INTO "dispatches" VALUES('part-2','part',2,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',5,1,'[["tel:+12060000011"],[],[]]',1772366400000000,1772452800000000,NULL,1,NULL,'workspace',NULL,NULL,NULL,'["BACKEND_REJECTED","no",{"field":"urns"}]','default',NULL,NULL,NULL,0,0,1772366405000000,0,0,0,0);
INSERT INTO "dispatches" VALUES('crash-1','crash',1,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000020"],[],[]]',1772366400000000,1772452800000000,1,1,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-1','unsent',1,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000100"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-2','unsent',2,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000101"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-3','unsent',3,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000102"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-4','unsent',4,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000103"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-5','unsent',5,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000104"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-6','unsent',6,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000105"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-7','unsent',7,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000106"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-8','unsent',8,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000107"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-9','unsent',9,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000108"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-10','unsent',10,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000109"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-11','unsent',11,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000110"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-12','unsent',12,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000111"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-13','unsent',13,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000112"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-14','unsent',14,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000113"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-15','unsent',15,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000114"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-16','unsent',16,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000115"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-17','unsent',17,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000116"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-18','unsent',18,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000117"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-19','unsent',19,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000118"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-20','unsent',20,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000119"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-21','unsent',21,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000120"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-22','unsent',22,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000121"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-23','unsent',23,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000122"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-24','unsent',24,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000123"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-25','unsent',25,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000124"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-26','unsent',26,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000125"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-27','unsent',27,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000126"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-28','unsent',28,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000127"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-29','unsent',29,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000128"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-30','unsent',30,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000129"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-31','unsent',31,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000130"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-32','unsent',32,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000131"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-33','unsent',33,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000132"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-34','unsent',34,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000133"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-35','unsent',35,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000134"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-36','unsent',36,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000135"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-37','unsent',37,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000136"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-38','unsent',38,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000137"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-39','unsent',39,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000138"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-40','unsent',40,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000139"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-41','unsent',41,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000140"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-42','unsent',42,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000141"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-43','unsent',43,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000142"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-44','unsent',44,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000143"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-45','unsent',45,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000144"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-46','unsent',46,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000145"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-47','unsent',47,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000146"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-48','unsent',48,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000147"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-49','unsent',49,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000148"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-50','unsent',50,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000149"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-51','unsent',51,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000150"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-52','unsent',52,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000151"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-53','unsent',53,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000152"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-54','unsent',54,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000153"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-55','unsent',55,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000154"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-56','unsent',56,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000155"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-57','unsent',57,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000156"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-58','unsent',58,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000157"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-59','unsent',59,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000158"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-60','unsent',60,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000159"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-61','unsent',61,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000160"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-62','unsent',62,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000161"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-63','unsent',63,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000162"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-64','unsent',64,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000163"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-65','unsent',65,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000164"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-66','unsent',66,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000165"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-67','unsent',67,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000166"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-68','unsent',68,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000167"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-69','unsent',69,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000168"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-70','unsent',70,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000169"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-71','unsent',71,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000170"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-72','unsent',72,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000171"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-73','unsent',73,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000172"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-74','unsent',74,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000173"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-75','unsent',75,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000174"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-76','unsent',76,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000175"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-77','unsent',77,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000176"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-78','unsent',78,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000177"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-79','unsent',79,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000178"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-80','unsent',80,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000179"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-81','unsent',81,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000180"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-82','unsent',82,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000181"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-83','unsent',83,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000182"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-84','unsent',84,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000183"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-85','unsent',85,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000184"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-86','unsent',86,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000185"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-87','unsent',87,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000186"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-88','unsent',88,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000187"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-89','unsent',89,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000188"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-90','unsent',90,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000189"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-91','unsent',91,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000190"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-92','unsent',92,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000191"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-93','unsent',93,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000192"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-94','unsent',94,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000193"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-95','unsent',95,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000194"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-96','unsent',96,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000195"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-97','unsent',97,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000196"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-98','unsent',98,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000197"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-99','unsent',99,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000198"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('unsent-100','unsent',100,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000199"],[],[]]',1772366400000000,1772452800000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
INSERT INTO "dispatches" VALUES('later-1','later',1,'rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',1,1,'[["tel:+12060000030"],[],[]]',1772370000000000,1772456400000000,NULL,0,NULL,'workspace',NULL,NULL,NULL,NULL,'default',NULL,NULL,NULL,0,0,NULL,0,0,0,0);
CREATE TABLE leases (
    kind text not null,
    name text not null,
    owner integer not null,
    fence integer not null,
    until integer,
    says text not null default '{}',
    primary key (kind, name)
) strict;
INSERT INTO "leases" VALUES('life','1',1,1,NULL,'{}');
INSERT INTO "leases" VALUES('lane','rapidpro',1,1,NULL,'{}');
CREATE TABLE lines (
    backend text not null,
    recipient text not null,
    waiting integer not null,
    primary key (backend, recipient)
) strict, without rowid;
CREATE TABLE meta (
    key text primary key,
    value text not null
) strict;
INSERT INTO "meta" VALUES('epoch','131e3351950c423092e2bd01ccef87a3');
INSERT INTO "meta" VALUES('incarnation','1');
INSERT INTO "meta" VALUES('purged_through','0');
CREATE TABLE recipients (
    start_id text not null references starts (id),
    block integer not null,
    first_number integer not null,
    body text not null,
    primary key (start_id, block)
) strict, without rowid;
INSERT INTO "recipients" VALUES('unsent',1,101,'[[["tel:+12060000200"],[],[]],[["tel:+12060000201"],[],[]],[["tel:+12060000202"],[],[]],[["tel:+12060000203"],[],[]],[["tel:+12060000204"],[],[]],[["tel:+12060000205"],[],[]],[["tel:+12060000206"],[],[]],[["tel:+12060000207"],[],[]],[["tel:+12060000208"],[],[]],[["tel:+12060000209"],[],[]],[["tel:+12060000210"],[],[]],[["tel:+12060000211"],[],[]],[["tel:+12060000212"],[],[]],[["tel:+12060000213"],[],[]],[["tel:+12060000214"],[],[]],[["tel:+12060000215"],[],[]],[["tel:+12060000216"],[],[]],[["tel:+12060000217"],[],[]],[["tel:+12060000218"],[],[]],[["tel:+12060000219"],[],[]],[["tel:+12060000220"],[],[]],[["tel:+12060000221"],[],[]],[["tel:+12060000222"],[],[]],[["tel:+12060000223"],[],[]],[["tel:+12060000224"],[],[]],[["tel:+12060000225"],[],[]],[["tel:+12060000226"],[],[]],[["tel:+12060000227"],[],[]],[["tel:+12060000228"],[],[]],[["tel:+12060000229"],[],[]],[["tel:+12060000230"],[],[]],[["tel:+12060000231"],[],[]],[["tel:+12060000232"],[],[]],[["tel:+12060000233"],[],[]],[["tel:+12060000234"],[],[]],[["tel:+12060000235"],[],[]],[["tel:+12060000236"],[],[]],[["tel:+12060000237"],[],[]],[["tel:+12060000238"],[],[]],[["tel:+12060000239"],[],[]],[["tel:+12060000240"],[],[]],[["tel:+12060000241"],[],[]],[["tel:+12060000242"],[],[]],[["tel:+12060000243"],[],[]],[["tel:+12060000244"],[],[]],[["tel:+12060000245"],[],[]],[["tel:+12060000246"],[],[]],[["tel:+12060000247"],[],[]],[["tel:+12060000248"],[],[]],[["tel:+12060000249"],[],[]]]');
CREATE TABLE starts (
    id text primary key,
    tenant text not null,
    backend text not null,
    flow text not null,
    request_id text,
    fingerprint text not null,
    created_at integer not null,
    expire_at integer,
    state integer not null,
    revision integer not null,
    behind integer not null default 0,
    asked text not null,
    params text not null,
    standing text not null,
    tally text not null
, give_up_at integer, cancel_at integer, ends integer not null default 0, cancelling integer not null default 0, scheduled integer not null default 0, marked integer, due_at integer, recorded integer not null default 0, erased integer not null default 0) strict;
INSERT INTO "starts" VALUES('done','default','rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7','first','1:f',1772366400000000,NULL,4,7,0,'{"n":1,"labels":{"team":"a"},"meaning":2}','{"a":[1,"é",null],"b":{"c":true}}','{"state":4,"progress":{"queued":0,"started":0,"completed":1,"failed":0,"interrupted":0,"skipped":0,"uncertain":0},"external":"ext-done","updated":1772366405000000,"ended":1772366405000000}','{"d":{"4":1},"r":{"4":1},"f":{},"w":[],"c":null,"s":null}',1772452800000000,NULL,0,0,0,NULL,NULL,1,0);
INSERT INTO "starts" VALUES('part','default','rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',NULL,'1:f',1772366400000000,NULL,2,8,1,'{"n":2,"meaning":2}','{"a":[1,"é",null],"b":{"c":true}}','{"state":2,"progress":{"queued":1,"started":0,"completed":0,"failed":0,"interrupted":0,"skipped":0,"uncertain":0},"updated":1772366405000000}','{"d":{"2":1,"5":1},"r":{"2":1,"5":1},"f":{"5":["BACKEND_REJECTED","no",{"field":"urns"}]},"w":[],"c":null,"s":null}',1772452800000000,NULL,0,0,0,NULL,NULL,2,0);
INSERT INTO "starts" VALUES('crash','default','rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',NULL,'1:f',1772366400000000,NULL,1,3,0,'{"n":1,"meaning":2}','{"a":[1,"é",null],"b":{"c":true}}','{"state":1,"progress":{"queued":0,"started":0,"completed":0,"failed":0,"interrupted":0,"skipped":0,"uncertain":0},"updated":1772366400000000}','{"d":{"1":1},"r":{"1":1},"f":{},"w":[],"c":null,"s":null}',1772452800000000,NULL,0,0,0,NULL,NULL,3,0);
INSERT INTO "starts" VALUES('unsent','default','rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',NULL,'1:f',1772366400000000,NULL,1,4,0,'{"n":150,"meaning":2}','{"a":[1,"é",null]}','{"state":1,"progress":{"queued":0,"started":0,"completed":0,"failed":0,"interrupted":0,"skipped":0,"uncertain":0},"updated":1772366400000000}','{"d":{"1":150},"r":{"1":150},"f":{},"w":[],"c":null,"s":null}',1772452800000000,NULL,0,0,0,NULL,NULL,4,0);
INSERT INTO "starts" VALUES('later','default','rapidpro','f5901b62-ba76-4003-9c62-72fdacc1b7b7',NULL,'1:f',1772366400000000,NULL,1,5,0,'{"n":1,"schedule":1772370000000000,"meaning":2}','{"a":[1,"é",null],"b":{"c":true}}','{"state":1,"progress":{"queued":0,"started":0,"completed":0,"failed":0,"interrupted":0,"skipped":0,"uncertain":0},"updated":1772366400000000,"next":1772370000000000}','{"d":{"1":1},"r":{"1":1},"f":{},"w":[],"c":null,"s":null}',1772456400000000,NULL,0,0,1,NULL,1772370000000000,5,0);
CREATE TABLE totals (
    backend text not null,
    scheduled integer not null,
    unsent integer not null,
    primary key (backend, scheduled)
) strict, without rowid;
INSERT INTO "totals" VALUES('rapidpro',0,151);
INSERT INTO "totals" VALUES('rapidpro',1,1);
CREATE TABLE turns (
    backend text not null,
    tenant text not null,
    turn integer not null default 0,
    ready integer not null default 0,
    due_at integer,
    primary key (backend, tenant)
) strict, without rowid;
INSERT INTO "turns" VALUES('rapidpro','default',0,0,1772366400000000);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE UNIQUE INDEX starts_request on starts (tenant, request_id) where request_id is not null;
CREATE UNIQUE INDEX starts_revision on starts (tenant, revision);
CREATE INDEX starts_behind on starts (id) where behind = 1;
CREATE INDEX dispatches_expiring on dispatches (backend, expire_at)
    where state = 1 and claimed_by is null and expire_at is not null;
CREATE INDEX dispatches_waiting on dispatches (start_id, due_at) where state = 1 and claimed_by is null;
CREATE INDEX dispatches_claimed on dispatches (claimed_by) where claimed_by is not null;
CREATE INDEX dispatches_external on dispatches (external_id, backend) where external_id is not null;
CREATE INDEX attempts_start on attempts (start_id, begun_at, dispatch_id, number);
CREATE INDEX attempts_open on attempts (incarnation) where outcome is null;
CREATE INDEX attempts_sent on attempts (backend, begun_at);
CREATE INDEX changes_start on changes (start_id, revision);
CREATE INDEX starts_cancelling on starts (backend) where cancelling = 1;
CREATE INDEX dispatches_running on dispatches (backend, account, flow, accepted_at) where state in (2, 3);
CREATE INDEX dispatches_sought on dispatches (backend, account) where sought_from is not null;
CREATE INDEX dispatches_unsure on dispatches (start_id, due_at) where state = 7;
CREATE INDEX dispatches_accepted on dispatches (backend, account, accepted_at) where accepted_at is not null;
CREATE INDEX dispatches_ending on dispatches (backend, account) where ending in (1, 2) and state in (2, 3);
CREATE INDEX dispatches_moved on dispatches (backend, moved_at) where state in (2, 3) and stalled = 0;
CREATE INDEX dispatches_stalled on dispatches (start_id) where stalled = 1;
CREATE INDEX dispatches_start on dispatches (start_id);
CREATE INDEX starts_newest on starts (revision);
CREATE INDEX dispatches_line on dispatches (backend, recipient, in_line, due_at, start_id, number)
    where recipient is not null and state = 1 and claimed_by is null;
CREATE INDEX dispatches_sending on dispatches (backend, recipient)
    where recipient is not null and state = 1 and claimed_by > 0;
CREATE INDEX dispatches_seeking on dispatches (backend, recipient)
    where recipient is not null and state = 7 and sought_from is not null;
CREATE INDEX dispatches_pursued on dispatches (start_id, due_at) where state = 7 and sought_from is not null;
CREATE INDEX dispatches_due on dispatches (backend, tenant, due_at, start_id, number)
    where state = 1 and claimed_by is null and in_line = 0;
CREATE INDEX dispatches_watched on dispatches (backend, sought_until)
    where sought_from is not null and sought_until is not null;
CREATE INDEX starts_scheduled on starts (backend, due_at) where scheduled = 1 and state not in (4, 5, 6);
CREATE INDEX lines_full on lines (backend, recipient) where waiting >= 1000;
CREATE INDEX turns_ready on turns (backend, ready, turn, due_at, tenant);
CREATE INDEX turns_due on turns (backend, due_at) where ready = 0 and due_at is not null;
CREATE TRIGGER lines_joined after insert on dispatches when new.recipient is not null and new.state = 1
begin
    insert into lines (backend, recipient, waiting) values (new.backend, new.recipient, 1)
    on conflict do update set waiting = waiting + 1;
    update dispatches set in_line = 1
    where backend = new.backend and recipient = new.recipient and recipient is not null
    and state = 1 and claimed_by is null and in_line = 0
    and ((exists (select 1 from dispatches o where o.backend = new.backend and o.recipient = new.recipient and o.recipient is not null and o.state = 1 and o.claimed_by > 0) or exists (select 1 from dispatches o where o.backend = new.backend and o.recipient = new.recipient and o.recipient is not null and o.state = 7 and o.sought_from is not null)) or exists (
        select 1 from (select e.due_at, e.start_id, e.number from dispatches e where e.backend = new.backend and e.recipient = new.recipient and e.recipient is not null and e.state = 1 and e.claimed_by is null and e.in_line = 0
            order by e.due_at, e.start_id, e.number limit 1) f
        where (f.due_at, f.start_id, f.number) < (dispatches.due_at, dispatches.start_id, dispatches.number)
    ) or exists (
        select 1 from (select e.due_at, e.start_id, e.number from dispatches e where e.backend = new.backend and e.recipient = new.recipient and e.recipient is not null and e.state = 1 and e.claimed_by is null and e.in_line = 1
            order by e.due_at, e.start_id, e.number limit 1) f
        where (f.due_at, f.start_id, f.number) < (dispatches.due_at, dispatches.start_id, dispatches.number)
    ));
    update dispatches set in_line = 0
    where id = (select e.id from dispatches e where e.backend = new.backend and e.recipient = new.recipient and e.recipient is not null and e.state = 1 and e.claimed_by is null and e.in_line = 1 order by e.due_at, e.start_id, e.number limit 1)
    and not exists (select 1 from dispatches e where e.backend = new.backend and e.recipient = new.recipient and e.recipient is not null and e.state = 1 and e.claimed_by is null and e.in_line = 0) and not (exists (select 1 from dispatches o where o.backend = new.backend and o.recipient = new.recipient and o.recipient is not null and o.state = 1 and o.claimed_by > 0) or exists (select 1 from dispatches o where o.backend = new.backend and o.recipient = new.recipient and o.recipient is not null and o.state = 7 and o.sought_from is not null));
end;
CREATE TRIGGER lines_moved after update of state, claimed_by, due_at, sought_from on dispatches
when new.recipient is not null and (old.state in (1, 7) or new.state in (1, 7))
begin
    insert into lines (backend, recipient, waiting)
    select new.backend, new.recipient, 1 where (new.state = 1 and new.claimed_by is null) and not (old.state = 1 and old.claimed_by is null)
    on conflict do update set waiting = waiting + 1;
    update lines set waiting = waiting - 1
    where backend = new.backend and recipient = new.recipient and (old.state = 1 and old.claimed_by is null) and not (new.state = 1 and new.claimed_by is null);
    delete from lines where backend = new.backend and recipient = new.recipient and waiting <= 0;
    update dispatches set in_line = 1
    where backend = new.backend and recipient = new.recipient and recipient is not null
    and state = 1 and claimed_by is null and in_line = 0
    and ((exists (select 1 from dispatches o where o.backend = new.backend and o.recipient = new.recipient and o.recipient is not null and o.state = 1 and o.claimed_by > 0) or exists (select 1 from dispatches o where o.backend = new.backend and o.recipient = new.recipient and o.recipient is not null and o.state = 7 and o.sought_from is not null)) or exists (
        select 1 from (select e.due_at, e.start_id, e.number from dispatches e where e.backend = new.backend and e.recipient = new.recipient and e.recipient is not null and e.state = 1 and e.claimed_by is null and e.in_line = 0
            order by e.due_at, e.start_id, e.number limit 1) f
        where (f.due_at, f.start_id, f.number) < (dispatches.due_at, dispatches.start_id, dispatches.number)
    ) or exists (
        select 1 from (select e.due_at, e.start_id, e.number from dispatches e where e.backend = new.backend and e.recipient = new.recipient and e.recipient is not null and e.state = 1 and e.claimed_by is null and e.in_line = 1
            order by e.due_at, e.start_id, e.number limit 1) f
        where (f.due_at, f.start_id, f.number) < (dispatches.due_at, dispatches.start_id, dispatches.number)
    ));
    update dispatches set in_line = 0
    where id = (select e.id from dispatches e where e.backend = new.backend and e.recipient = new.recipient and e.recipient is not null and e.state = 1 and e.claimed_by is null and e.in_line = 1 order by e.due_at, e.start_id, e.number limit 1)
    and not exists (select 1 from dispatches e where e.backend = new.backend and e.recipient = new.recipient and e.recipient is not null and e.state = 1 and e.claimed_by is null and e.in_line = 0) and not (exists (select 1 from dispatches o where o.backend = new.backend and o.recipient = new.recipient and o.recipient is not null and o.state = 1 and o.claimed_by > 0) or exists (select 1 from dispatches o where o.backend = new.backend and o.recipient = new.recipient and o.recipient is not null and o.state = 7 and o.sought_from is not null));
end;
CREATE TRIGGER turns_joined after insert on dispatches when (new.state = 1 and new.claimed_by is null) and new.in_line = 0
begin
    insert into turns (backend, tenant, due_at) values (new.backend, new.tenant, new.due_at)
    on conflict (backend, tenant) do update set due_at = excluded.due_at
    where ready = 0 and (due_at is null or due_at > excluded.due_at);
end;
CREATE TRIGGER turns_moved after update of state, claimed_by, due_at, in_line on dispatches
when (new.state = 1 and new.claimed_by is null) and new.in_line = 0
begin
    insert into turns (backend, tenant, due_at) values (new.backend, new.tenant, new.due_at)
    on conflict (backend, tenant) do update set due_at = excluded.due_at
    where ready = 0 and (due_at is null or due_at > excluded.due_at);
end;
CREATE TRIGGER totals_new after insert on backlogs
begin
    insert into totals (backend, scheduled, unsent) values (new.backend, new.scheduled, new.unsent)
    on conflict do update set unsent = unsent + excluded.unsent;
end;
CREATE TRIGGER totals_moved after update of unsent on backlogs
begin
    insert into totals (backend, scheduled, unsent) values (new.backend, new.scheduled, new.unsent - old.unsent)
    on conflict do update set unsent = unsent + excluded.unsent;
end;
CREATE TRIGGER totals_gone after delete on backlogs
begin
    update totals set unsent = unsent - old.unsent where backend = old.backend and scheduled = old.scheduled;
end;
CREATE INDEX starts_erased on starts (erased) where erased = 1;
CREATE INDEX dispatches_held on dispatches (start_id, number) where claimed_by = 0;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('changes',8);
COMMIT;
