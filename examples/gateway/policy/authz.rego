# May this user do this with this tool, in this context?
#
# input: {"user": a user's record or null, "action": "invoke", "tool": "payroll-export",
#         "context": {"hour": 0–23, "mfa": true or false}}
# data:  roles.json and tools.json
package gateway.authz

import rego.v1

levels := {"public": 0, "internal": 1, "confidential": 2, "critical": 3}

tool := data.tools[input.tool]

# The roles of the user that allow this action on tools of this team and sensitivity.
granting contains name if {
	some name in input.user.roles
	role := data.roles[name]
	input.action in role.actions
	levels[tool.sensitivity] <= levels[role.clearance]
	reaches(role)
}

reaches(role) if "*" in role.teams

reaches(role) if tool.team in role.teams

reaches(role) if {
	"own" in role.teams
	tool.team == input.user.team
}

# Every reason to say no; the first in the alphabet is the one that is told.
denials contains "unknown user" if input.user == null

denials contains "unknown tool" if not tool

denials contains "user is suspended" if input.user.suspended

denials contains sprintf("no role of the user may %s this tool", [input.action]) if {
	input.user != null
	tool
	count(granting) == 0
}

denials contains "multi-factor authentication is needed" if {
	levels[tool.sensitivity] >= levels.confidential
	not input.context.mfa == true
}

denials contains message if {
	tool.hours
	not in_hours
	message := sprintf("the tool is open from %d to %d o'clock", [tool.hours.from, tool.hours.to])
}

in_hours if {
	input.context.hour >= tool.hours.from
	input.context.hour < tool.hours.to
}
