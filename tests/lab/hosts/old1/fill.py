# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the old system's database as SQL on standard output (on the control node).

It holds what dumps get wrong: FLOAT values that six digits lose, four-byte characters, bytes, zero dates, NULL beside
the empty string, and each kind of routine.
"""

from __future__ import annotations

from tests.lab.marks import mark

PEOPLE = ["Zoë Müller", "Łukasz Škoda", "Дарья Иванова", "田中 美咲", "محمد الحسن", "Ayşe Çelik", "Renée O’Brien", "विजय शर्मा"]
TEXTS = ["Grüße 😀", "予算は来週 🗓", "договор подписан", "a\\\\b 'quoted' \"double\"", "line one\nline two", "👩🏽‍💼 naïve", "%_ wild", ""]

SCHEMA = """
SET NAMES utf8mb4;
SET sql_mode = 'NO_BACKSLASH_ESCAPES';
CREATE TABLE contacts (
  id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, name VARCHAR(120) NOT NULL, email VARCHAR(120), phone VARCHAR(40),
  born DATE, remark TEXT, changed TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, KEY (email)
) ENGINE=InnoDB;
CREATE TABLE notes (
  id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, contact_id INT NOT NULL, body TEXT NOT NULL, words INT,
  CONSTRAINT notes_contact FOREIGN KEY (contact_id) REFERENCES contacts (id)
) ENGINE=InnoDB;
CREATE TABLE amounts (
  id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, label VARCHAR(60), rough FLOAT, fine DOUBLE, exact DECIMAL(14,4)
) ENGINE=InnoDB;
CREATE TABLE attachments (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, name VARCHAR(120), content BLOB) ENGINE=InnoDB;
CREATE TABLE settings (k VARCHAR(60) NOT NULL, v TEXT) ENGINE=MyISAM;
CREATE TABLE sessions (id CHAR(16) NOT NULL PRIMARY KEY, who VARCHAR(40), since DATETIME) ENGINE=InnoDB;
CREATE TABLE worker (beats INT NOT NULL, seen DATETIME) ENGINE=InnoDB;
CREATE TABLE audit (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, what VARCHAR(120)) ENGINE=InnoDB;
INSERT INTO worker VALUES (0, NOW());
"""

ROUTINES = """
CREATE VIEW contact_notes AS SELECT c.id, c.name, COUNT(n.id) AS notes FROM contacts c
  LEFT JOIN notes n ON n.contact_id = c.id GROUP BY c.id, c.name;
CREATE VIEW big_amounts AS SELECT id, label, exact FROM amounts WHERE exact > 1000;
DELIMITER //
CREATE TRIGGER notes_words BEFORE INSERT ON notes FOR EACH ROW
  SET NEW.words = LENGTH(NEW.body) - LENGTH(REPLACE(NEW.body, ' ', '')) + 1//
CREATE PROCEDURE purge_sessions(days INT)
BEGIN
  DELETE FROM sessions WHERE since < NOW() - INTERVAL days DAY;
  INSERT INTO audit (what) VALUES (CONCAT('purged — ', days));
END//
CREATE FUNCTION full_label(n INT) RETURNS VARCHAR(120) CHARSET utf8mb4 DETERMINISTIC
  RETURN CONCAT('№ ', n)//
CREATE EVENT nightly_purge ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 03:00:00' DO CALL purge_sessions(90)//
DELIMITER ;
"""


def text(value: str | None) -> str:
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


def insert(table: str, columns: str, rows: list[str]) -> str:
    return "".join(f"INSERT INTO {table} ({columns}) VALUES\n" + ",\n".join(rows[n : n + 500]) + ";\n" for n in range(0, len(rows), 500))


def contact(n: int) -> str:
    born = "'0000-00-00'" if n % 500 == 0 else "NULL" if n % 7 == 0 else f"'19{50 + n % 50}-0{1 + n % 9}-1{n % 10}'"
    email = None if n % 11 == 0 else "" if n % 13 == 0 else f"old{n}@example.org"
    remark = f"{mark('old-contact', n)} {TEXTS[n % 8]}"
    return f"({text(PEOPLE[n % 8] + f' {n}')}, {text(email)}, '+33 1 {n:08d}', {born}, {text(remark)}, '2019-06-01 12:00:00')"


def note(n: int) -> str:
    return f"({1 + n % 2000}, {text(TEXTS[n % 8] + ' ' + mark('old-note', n))})"


def amount(n: int) -> str:
    rough = (16777215 - n, f"{n}.1234567", f"{1234567 + n}", "NULL", "-0.000012345678", f"{n}e20")[n % 6]
    return f"('label {n}', {rough}, {n}.123456789012345678, {n * 17}.{n % 10000:04d})"


print(SCHEMA)
print(insert("contacts", "name, email, phone, born, remark, changed", [contact(n) for n in range(2000)]))
print("DELIMITER ;")
print(insert("amounts", "label, rough, fine, exact", [amount(n) for n in range(600)]))
print(insert("attachments", "name, content", [f"('file-{n}.bin', 0x{bytes(range(256)).hex()}{n:08x})" for n in range(40)]))
print(insert("settings", "k, v", [f"('key{n}', {text(mark('old-setting', n))})" for n in range(50)]))
print(insert("sessions", "id, who, since", [f"('{n:016x}', 'user{n}', '2026-01-01 08:00:00')" for n in range(25)]))
print(ROUTINES)
print(insert("notes", "contact_id, body", [note(n) for n in range(3000)]))
